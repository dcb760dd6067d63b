/* Runs a fuzzer without libFuzzer: replay CORPUS-DIR MUTATIONS SEED. Every file of the corpus,
 * every prefix of it, then seeded mutations. Each input lies in memory of exactly its size, so that
 * the address sanitizer sees the first byte too many. A failing mutation is found again by its
 * seed. */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>

#define INPUT_BYTES_MAX KIB(64)
#define INPUTS_MAX 1024
#define CHANGES_MAX 8

struct input {
    uint8_t *data;
    size_t size;
};

static struct input inputs[INPUTS_MAX];
static size_t n_inputs;
static uint64_t random_state;

/* splitmix64 */
static uint64_t draw(uint64_t below)
{
    uint64_t x = random_state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (x ^ x >> 31) % below;
}

static void run(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);
    if (exact == NULL)
        abort();
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static bool load(const char *dir, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "re");
    uint8_t *data = malloc(INPUT_BYTES_MAX);
    if (file == NULL || data == NULL || n_inputs == INPUTS_MAX) {
        fprintf(stderr, "replay: cannot read %s\n", path);
        return false;
    }
    inputs[n_inputs].data = data;
    inputs[n_inputs].size = fread(data, 1, INPUT_BYTES_MAX, file);
    n_inputs++;
    fclose(file);
    return true;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool load_all(const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, by_name);
    bool good = n >= 0;
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.')
            good = load(dir, names[i]->d_name) && good;
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return good && n_inputs > 0;
}

/* One change of data[0..size), which has room for INPUT_BYTES_MAX; returns the new size. */
static size_t change(uint8_t *data, size_t size)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff};
    const struct input *other = &inputs[draw(n_inputs)];
    switch (size == 0 ? 4 : draw(6)) {
    case 0:
        data[draw(size)] ^= (uint8_t)(1u << draw(8));
        return size;
    case 1:
        data[draw(size)] = (uint8_t)draw(256);
        return size;
    case 2:
        data[draw(size)] = edges[draw(ARRAY_SIZE(edges))];
        return size;
    case 3:
        return draw(size);
    case 4: { /* append a piece of another input */
        size_t n = MIN(draw(other->size + 1), INPUT_BYTES_MAX - size);
        memcpy(data + size, other->data, n);
        return size + n;
    }
    default: { /* overwrite with a piece of another input */
        size_t at = draw(size);
        size_t n = MIN(draw(other->size + 1), size - at);
        memcpy(data + at, other->data + (other->size - n), n);
        return size;
    }
    }
}

int main(int argc, char **argv)
{
    if (argc != 4 || !load_all(argv[1])) {
        fprintf(stderr, "usage: replay CORPUS-DIR MUTATIONS SEED\n");
        return 2;
    }
    uint64_t mutations = strtoull(argv[2], NULL, 10);
    uint64_t seed = strtoull(argv[3], NULL, 10);
    for (size_t i = 0; i < n_inputs; i++) {
        for (size_t n = 0; n <= MIN(inputs[i].size, (size_t)1024); n++)
            run(inputs[i].data, n);
        run(inputs[i].data, inputs[i].size);
    }
    static uint8_t data[INPUT_BYTES_MAX];
    for (uint64_t m = 0; m < mutations; m++) {
        random_state = seed + m;
        const struct input *from = &inputs[draw(n_inputs)];
        size_t size = from->size;
        memcpy(data, from->data, size);
        for (uint64_t changes = 1 + draw(CHANGES_MAX); changes > 0; changes--)
            size = change(data, size);
        run(data, size);
    }
    for (size_t i = 0; i < n_inputs; i++)
        free(inputs[i].data);
    return 0;
}
