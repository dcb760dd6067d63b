#include "gateway_suite.h"
#include "gateway/s3xml.h"
#include "gateway/text.h"

static void text_is_escaped(void **state)
{
    _cleanup_(writer_fini) struct writer out = {0};

    xml_begin(&out, "R");
    xml_text(&out, "K", "a<b>&\"c\"\n\x01\xc3\xa4\xff\xed\xa0\x80");
    xml_number(&out, "N", UINT64_MAX);
    xml_bool(&out, "B", false);
    xml_close(&out, "R");
    assert_string_equal(text_end(&out),
                        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<R xmlns=\"" XML_S3_NAMESPACE "\">"
                        "<K>a&lt;b&gt;&amp;&quot;c&quot;&#xa;&#x1;\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd</K>"
                        "<N>18446744073709551615</N><B>false</B></R>");
}

static int collect(void *arg, const char *path, const char *text)
{
    text_format(arg, "%s=%s;", path, text);
    return strcmp(text, "stop") == 0 ? -E_CANCELED : 0;
}

static void elements_are_visited_at_their_ends(void **state)
{
    _cleanup_(writer_fini) struct writer seen = {0};
    static const char text[] = "<?xml version=\"1.0\"?><s:D xmlns:s=\"x\"><O><Key>a &amp; b</Key></O><Q>true</Q></s:D>";

    assert_int_equal(xml_parse(text, strlen(text), "D", collect, &seen), 0);
    assert_string_equal(text_end(&seen), "/D/O/Key=a & b;/D/O=;/D/Q=true;/D=;");
}

static void hostile_xml_is_refused(void **state)
{
    static const char *const bad[] = {
        "", "<D>", "<D></E>", "<E/>", "<D/><D/>", "<D>&x;</D>", "x",
        "<!DOCTYPE D [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><D>&b;</D>",
        "<!DOCTYPE D SYSTEM \"file:///etc/passwd\"><D/>",
        "<D><a><b><c><d><e><f><g><h/></g></f></e></d></c></b></a></D>",
    };
    _cleanup_(writer_fini) struct writer seen = {0};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(xml_parse(bad[i], strlen(bad[i]), "D", collect, &seen), -E_PROTO);
}

static void texts_have_a_limit_and_visitors_may_stop(void **state)
{
    _cleanup_(writer_fini) struct writer seen = {0}, text = {0};

    assert_int_equal(xml_parse("<D><a>stop</a><b/></D>", 22, "D", collect, &seen), -E_CANCELED);
    text_add(&text, "<D>");
    for (unsigned i = 0; i < XML_TEXT_MAX; i++)
        writer_u8(&text, 'x');
    text_add(&text, "</D>");
    assert_int_equal(xml_parse((char *)text.data, text.len, "D", collect, &seen), -E_PROTO);
}

static void no_prefix_of_a_document_parses(void **state)
{
    static const char text[] = "<Delete><Quiet>true</Quiet><Object><Key>a</Key></Object></Delete>";
    _cleanup_(writer_fini) struct writer seen = {0};

    for (size_t n = 0; n < strlen(text); n++)
        assert_int_equal(xml_parse(text, n, "Delete", collect, &seen), -E_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_escaped),
        cmocka_unit_test(elements_are_visited_at_their_ends),
        cmocka_unit_test(hostile_xml_is_refused),
        cmocka_unit_test(texts_have_a_limit_and_visitors_may_stop),
        cmocka_unit_test(no_prefix_of_a_document_parses),
    };
    return cmocka_run_group_tests_name("s3xml", tests, NULL, NULL);
}
