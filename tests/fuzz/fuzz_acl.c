/* Access control lists: what is accepted is encoded to the same list again, and answers every question. */
#include "fuzz.h"

#include "common/check.h"
#include "metadata/acl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct acl acl = {0}, again = {0};
    if (acl_decode(data, size, &acl) != 0)
        return 0;
    struct writer w = {0};
    acl_encode(&acl, &w);
    CHECK(!w.failed && acl_decode(w.data, w.len, &again) == 0 && again.count == acl.count);
    bool minimal;
    uint16_t mode = acl_mode(&acl, 0, &minimal);
    struct acl_who who = {.uid = size > 8 ? data[8] : 0, .gid = size > 9 ? data[9] : 0};
    for (unsigned mask = 1; mask < 8 && acl.count > 0; mask++) {
        int err = acl_check(&acl, 0, 0, &who, mask);
        CHECK(!minimal || who.uid == 0 || who.gid == 0 || (err == 0) == ((mode & mask) == mask));
    }
    if (acl.count > 0) {
        acl_set_mode(&again, 0);
        CHECK(acl_mode(&again, 07000, &minimal) == 07000);
        CHECK((acl_inherit(&acl, 0750, &minimal) & ~0750) == 0);
    }
    writer_fini(&w);
    acl_fini(&acl);
    acl_fini(&again);
    return 0;
}
