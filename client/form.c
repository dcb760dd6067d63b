#include "form.h"

const char *extent_form(const Tarn__Extent *extent)
{
    if (extent->state != TARN__CHUNK_STATE__CHUNK_SEALED)
        return "open";
    if (extent->form != TARN__CHUNK_FORM__FORM_RAW)
        return "compressed";
    if (extent->stored != 0 && extent->stored != extent->chunk_length)
        return "packed";
    return extent->group != 0 ? "coded" : "replicated";
}
