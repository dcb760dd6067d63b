#include "gateway_suite.h"
#include "gateway/json.h"
#include "gateway/text.h"

static int read_text(const char *text, struct json_locations *ret)
{
    const char *why = NULL;
    int r = json_read_locations(text, strlen(text), ret, &why);
    if (r < 0)
        assert_non_null(why);
    return r;
}

static void requests_come_as_json_or_lines(void **state)
{
    struct json_locations request;

    assert_int_equal(read_text(" {\"paths\": [\"/a/b\", \"/c\"], \"recursive\": true}", &request), 0);
    assert_int_equal(request.count, 2);
    assert_string_equal(request.paths[1], "/c");
    assert_true(request.recursive);
    json_locations_fini(&request);
    assert_int_equal(read_text("{\"prefix\": \"/a/b-\"}", &request), 0);
    assert_string_equal(request.prefix, "/a/b-");
    json_locations_fini(&request);
    assert_int_equal(read_text("/a/b c\r\n\n/d", &request), 0);
    assert_int_equal(request.count, 2);
    assert_string_equal(request.paths[0], "/a/b c");
    json_locations_fini(&request);
}

static void other_requests_are_refused(void **state)
{
    static const char *const bad[] = {"", "\n", "a/b", "/a\nb", "{", "{}", "[]", "{\"paths\": \"/a\"}", "{\"paths\": [1]}",
                                      "{\"paths\": [\"a\"]}", "{\"paths\": []}", "{\"prefix\": 1}", "{\"prefix\": \"a\"}",
                                      "{\"paths\": [\"/a\"], \"prefix\": \"/b\"}", "{\"paths\": [\"/a\"], \"recursive\": 1}",
                                      "{\"paths\": [\"/a\"]} x", "{\"paths\": [\"/a\\u0000b\"]}"};
    struct json_locations request;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(read_text(bad[i], &request), -E_INVAL);
}

static void a_file_is_one_line_with_its_readable_replicas(void **state)
{
    _cleanup_(writer_fini) struct writer out = {0};
    Tarn__LocatedFile file = TARN__LOCATED_FILE__INIT;
    Tarn__Attr attr = TARN__ATTR__INIT;
    Tarn__Extent extent = TARN__EXTENT__INIT, *extents[] = {&extent};
    Tarn__Replica ready = TARN__REPLICA__INIT, down = TARN__REPLICA__INIT, *replicas[] = {&ready, &down};

    ready = (Tarn__Replica){.base = ready.base, .node = 3, .address = "", .local = "", .host = "n3", .rack = "r1", .machine = "", .up = true, .ready = true};
    down = ready;
    down.up = false;
    extent.length = 7;
    extent.chunk = 9;
    extent.state = TARN__CHUNK_STATE__CHUNK_SEALED;
    extent.n_replicas = 2;
    extent.replicas = replicas;
    attr.size = 7;
    attr.version = 2;
    file.path = "/a\xff";
    file.attr = &attr;
    file.n_extents = 1;
    file.extents = extents;
    assert_int_equal(json_write_file(&out, &file, 5), 0);
    file.status = 2;
    assert_int_equal(json_write_file(&out, &file, 5), 0);
    assert_string_equal(text_end(&out),
                        "{\"path\":\"/a\xef\xbf\xbd\",\"epoch\":5,\"size\":7,\"version\":2,\"inline\":false,\"chunks\":[{\"off\":0,\"len\":7,"
                        "\"chunk\":9,\"hosts\":[\"n3\"],\"racks\":[\"r1\"],\"nodes\":[3],\"tier\":\"disk\",\"cached\":null,\"form\":\"replicated\",\"coded\":false}]}\n"
                        "{\"path\":\"/a\xef\xbf\xbd\",\"error\":\"NOENT\",\"message\":\"no such file or directory\"}\n");
}

static void the_form_says_how_the_bytes_lie(void **state)
{
    static const struct {
        Tarn__ChunkState state;
        uint64_t stored, group;
        uint32_t form;
        const char *want;
    } cases[] = {
        {TARN__CHUNK_STATE__CHUNK_OPEN, 0, 0, 0, "\"form\":\"open\",\"coded\":false}"},
        {TARN__CHUNK_STATE__CHUNK_SEALED, 0, 0, 0, "\"form\":\"replicated\",\"coded\":false}"},
        {TARN__CHUNK_STATE__CHUNK_SEALED, 0, 4, 0, "\"form\":\"coded\",\"coded\":true}"},
        {TARN__CHUNK_STATE__CHUNK_SEALED, 7, 0, 0, "\"form\":\"packed\",\"coded\":false}"},
        {TARN__CHUNK_STATE__CHUNK_SEALED, 7, 4, 0, "\"form\":\"packed\",\"coded\":true}"},
        {TARN__CHUNK_STATE__CHUNK_SEALED, 100, 0, 0, "\"form\":\"replicated\",\"coded\":false}"}, /* all of its container */
        {TARN__CHUNK_STATE__CHUNK_SEALED, 100, 4, 0, "\"form\":\"coded\",\"coded\":true}"},
        {TARN__CHUNK_STATE__CHUNK_SEALED, 7, 0, 1, "\"form\":\"compressed\",\"coded\":false}"},
        {TARN__CHUNK_STATE__CHUNK_SEALED, 100, 4, 1, "\"form\":\"compressed\",\"coded\":true}"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(writer_fini) struct writer out = {0};
        Tarn__LocatedFile file = TARN__LOCATED_FILE__INIT;
        Tarn__Attr attr = TARN__ATTR__INIT;
        Tarn__Extent extent = TARN__EXTENT__INIT, *extents[] = {&extent};
        extent.chunk_length = cases[i].state == TARN__CHUNK_STATE__CHUNK_SEALED ? 100 : 0;
        extent.state = cases[i].state;
        extent.stored = cases[i].stored;
        extent.group = cases[i].group;
        extent.form = cases[i].form;
        file.path = "/a";
        file.attr = &attr;
        file.n_extents = 1;
        file.extents = extents;
        assert_int_equal(json_write_file(&out, &file, 5), 0);
        assert_non_null(strstr(text_end(&out), cases[i].want));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_come_as_json_or_lines),
        cmocka_unit_test(other_requests_are_refused),
        cmocka_unit_test(a_file_is_one_line_with_its_readable_replicas),
        cmocka_unit_test(the_form_says_how_the_bytes_lie),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
