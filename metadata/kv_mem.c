/* Tables in memory: an AVL tree whose nodes are shared between versions by counting references.
 * A transaction begins by sharing the root. A change copies the nodes on its path that somebody else
 * also holds and changes the ones only it holds, so a reader's version never moves. Deterministic:
 * the shape depends on the keys alone, never on addresses. Counters are atomic, so a reader may finish
 * on another thread while the writer goes on. */
#include "kv_impl.h"
#include "common/check.h"
#include "common/err.h"

#define MEM_MAGIC 0x6d656d6bu

struct blob {
    unsigned refs;
    uint32_t len;
    uint8_t data[];
};

struct node {
    unsigned refs;
    int height;
    struct node *left, *right;
    struct blob *key, *value;
};

struct mem {
    struct kv base;
    unsigned magic;
    bool writing;
    struct node *root;
};

struct mem_txn {
    struct kv_txn base;
    struct mem *mem;
    struct node *root;
    bool write;
};

static struct mem *mem_of(struct kv *kv)
{
    struct mem *mem = container_of(kv, struct mem, base);
    CHECK_MAGIC(mem, MEM_MAGIC);
    return mem;
}

static struct mem_txn *txn_of(struct kv_txn *txn)
{
    return container_of(txn, struct mem_txn, base);
}

/* ---- shared pieces ---- */
static struct blob *blob_new(struct kv_val from)
{
    struct blob *blob = malloc(sizeof *blob + from.len);
    if (blob == NULL)
        return NULL;
    blob->refs = 1;
    blob->len = (uint32_t)from.len;
    memcpy(blob->data, from.data, from.len);
    return blob;
}

static struct blob *blob_ref(struct blob *blob)
{
    __atomic_add_fetch(&blob->refs, 1, __ATOMIC_RELAXED);
    return blob;
}

static void blob_unref(struct blob *blob)
{
    if (__atomic_sub_fetch(&blob->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(blob);
}

static struct kv_val blob_val(const struct blob *blob)
{
    return (struct kv_val){.data = blob->data, .len = blob->len};
}

static struct node *node_ref(struct node *node)
{
    if (node != NULL)
        __atomic_add_fetch(&node->refs, 1, __ATOMIC_RELAXED);
    return node;
}

/* Depth is bounded by the tree's height: 1.44 log2(n). */
static void node_unref(struct node *node)
{
    if (node == NULL || __atomic_sub_fetch(&node->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    node_unref(node->left);
    node_unref(node->right);
    blob_unref(node->key);
    blob_unref(node->value);
    free(node);
}

/* Gives a node only the caller holds, in exchange for the caller's reference to `node`.
 * NULL when memory is short; then the reference is still the caller's. */
static struct node *node_own(struct node *node)
{
    if (__atomic_load_n(&node->refs, __ATOMIC_ACQUIRE) == 1)
        return node;
    struct node *copy = malloc(sizeof *copy);
    if (copy == NULL)
        return NULL;
    *copy = (struct node){.refs = 1,
                          .height = node->height,
                          .left = node_ref(node->left),
                          .right = node_ref(node->right),
                          .key = blob_ref(node->key),
                          .value = blob_ref(node->value)};
    node_unref(node);
    return copy;
}

/* ---- balance ---- */
static int height(const struct node *node)
{
    return node == NULL ? 0 : node->height;
}

static void measure(struct node *node)
{
    node->height = 1 + MAX(height(node->left), height(node->right));
}

/* Both rotations take an owned node whose child on the other side is owned too. */
static struct node *rotate_right(struct node *node)
{
    struct node *top = node->left;
    node->left = top->right;
    top->right = node;
    measure(node);
    measure(top);
    return top;
}

static struct node *rotate_left(struct node *node)
{
    struct node *top = node->right;
    node->right = top->left;
    top->left = node;
    measure(node);
    measure(top);
    return top;
}

static bool own_child(struct node **child)
{
    struct node *own = node_own(*child);
    if (own == NULL)
        return false;
    *child = own;
    return true;
}

/* Restores the balance of an owned node after one insertion or removal below it. Without memory the
 * tree stays correct, only less balanced. */
static struct node *balance(struct node *node)
{
    int lean = height(node->left) - height(node->right);
    if (lean > 1 && own_child(&node->left)) {
        if (height(node->left->left) < height(node->left->right) && own_child(&node->left->right))
            node->left = rotate_left(node->left);
        node = rotate_right(node);
    } else if (lean < -1 && own_child(&node->right)) {
        if (height(node->right->right) < height(node->right->left) && own_child(&node->right->left))
            node->right = rotate_right(node->right);
        node = rotate_left(node);
    } else {
        measure(node);
    }
    return node;
}

/* ---- change ---- */
static int node_new(struct kv_val key, struct kv_val value, struct node **ret)
{
    struct node *node = malloc(sizeof *node);
    if (node == NULL)
        return -E_NOMEM;
    *node = (struct node){.refs = 1, .height = 1, .key = blob_new(key), .value = blob_new(value)};
    if (node->key != NULL && node->value != NULL) {
        *ret = node;
        return 0;
    }
    free(node->key);
    free(node->value);
    free(node);
    return -E_NOMEM;
}

static int insert(struct node **at, struct kv_val key, struct kv_val value)
{
    if (*at == NULL)
        return node_new(key, value, at);
    if (!own_child(at))
        return -E_NOMEM;
    int order = kv_compare(key, blob_val((*at)->key));
    if (order == 0) {
        struct blob *blob = blob_new(value);
        if (blob == NULL)
            return -E_NOMEM;
        blob_unref((*at)->value);
        (*at)->value = blob;
        return 0;
    }
    int err = insert(order < 0 ? &(*at)->left : &(*at)->right, key, value);
    *at = balance(*at);
    return err;
}

/* Unlinks the smallest node of a non-empty tree into *ret (owned, without children). */
static int take_first(struct node **at, struct node **ret)
{
    if (!own_child(at))
        return -E_NOMEM;
    if ((*at)->left == NULL) {
        *ret = *at;
        *at = (*ret)->right;
        (*ret)->right = NULL;
        return 0;
    }
    int err = take_first(&(*at)->left, ret);
    *at = balance(*at);
    return err;
}

static int remove_here(struct node **at)
{
    struct node *gone = *at;
    if (gone->left == NULL || gone->right == NULL) {
        *at = gone->left != NULL ? gone->left : gone->right;
        gone->left = gone->right = NULL;
        node_unref(gone);
        return 0;
    }
    struct node *next = NULL;
    int err = take_first(&gone->right, &next);
    if (err != 0)
        return err;
    next->left = gone->left;
    next->right = gone->right;
    gone->left = gone->right = NULL;
    node_unref(gone);
    *at = balance(next);
    return 0;
}

static int erase(struct node **at, struct kv_val key)
{
    if (!own_child(at))
        return -E_NOMEM;
    int order = kv_compare(key, blob_val((*at)->key));
    if (order == 0)
        return remove_here(at);
    int err = erase(order < 0 ? &(*at)->left : &(*at)->right, key);
    *at = balance(*at);
    return err;
}

static const struct node *find(const struct node *node, struct kv_val key)
{
    while (node != NULL) {
        int order = kv_compare(key, blob_val(node->key));
        if (order == 0)
            return node;
        node = order < 0 ? node->left : node->right;
    }
    return NULL;
}

/* ---- operations ---- */
static void mem_close(struct kv *kv)
{
    struct mem *mem = mem_of(kv);
    CHECK(!mem->writing);
    node_unref(mem->root);
    mem->magic = 0;
    free(mem);
}

static const struct kv_ops mem_ops;

static int mem_begin(struct kv *kv, bool write, struct kv_txn **ret)
{
    struct mem *mem = mem_of(kv);
    if (write && mem->writing)
        return -E_BUSY;
    struct mem_txn *txn = malloc(sizeof *txn);
    if (txn == NULL)
        return -E_NOMEM;
    *txn = (struct mem_txn){
        .base.ops = &mem_ops, .mem = mem, .root = node_ref(mem->root), .write = write};
    mem->writing = mem->writing || write;
    *ret = &txn->base;
    return 0;
}

static void mem_abort(struct kv_txn *base)
{
    struct mem_txn *txn = txn_of(base);
    if (txn->write)
        txn->mem->writing = false;
    node_unref(txn->root);
    free(txn);
}

static int mem_commit(struct kv_txn *base)
{
    struct mem_txn *txn = txn_of(base);
    if (txn->write) {
        struct node *old = txn->mem->root;
        txn->mem->root = txn->root;
        txn->root = old;
    }
    mem_abort(base);
    return 0;
}

static int mem_get(struct kv_txn *base, struct kv_val key, struct kv_val *ret)
{
    const struct node *node = find(txn_of(base)->root, key);
    if (node == NULL)
        return -E_NOENT;
    *ret = blob_val(node->value);
    return 0;
}

static int mem_put(struct kv_txn *base, struct kv_val key, struct kv_val value)
{
    CHECK(txn_of(base)->write);
    return insert(&txn_of(base)->root, key, value);
}

static int mem_del(struct kv_txn *base, struct kv_val key)
{
    struct mem_txn *txn = txn_of(base);
    CHECK(txn->write);
    if (find(txn->root, key) == NULL)
        return 0;
    return erase(&txn->root, key);
}

static int mem_clear(struct kv_txn *base)
{
    struct mem_txn *txn = txn_of(base);
    CHECK(txn->write);
    node_unref(txn->root);
    txn->root = NULL;
    return 0;
}

static int visit(const struct node *node, struct kv_val start, struct kv_val prefix, kv_visit fn,
                 void *arg)
{
    if (node == NULL)
        return 0;
    struct kv_val key = blob_val(node->key);
    int err = 0;
    bool before = kv_compare(key, start) < 0;
    if (!before)
        err = visit(node->left, start, prefix, fn, arg);
    if (err == 0 && !before)
        err = kv_has_prefix(key, prefix) ? fn(arg, key, blob_val(node->value)) : 1;
    if (err == 0)
        err = visit(node->right, start, prefix, fn, arg);
    return err;
}

static int mem_scan(struct kv_txn *base, struct kv_val start, struct kv_val prefix, kv_visit fn,
                    void *arg)
{
    return visit(txn_of(base)->root, start, prefix, fn, arg);
}

static int mem_last(struct kv_txn *base, struct kv_val at, struct kv_val prefix,
                    struct kv_val *ret_key, struct kv_val *ret_value)
{
    const struct node *best = NULL;
    for (const struct node *node = txn_of(base)->root; node != NULL;) {
        if (kv_compare(blob_val(node->key), at) <= 0) {
            best = node;
            node = node->right;
        } else {
            node = node->left;
        }
    }
    if (best == NULL || !kv_has_prefix(blob_val(best->key), prefix))
        return -E_NOENT;
    *ret_key = blob_val(best->key);
    *ret_value = blob_val(best->value);
    return 0;
}

static const struct kv_ops mem_ops = {.close = mem_close,
                                      .begin = mem_begin,
                                      .commit = mem_commit,
                                      .abort = mem_abort,
                                      .get = mem_get,
                                      .put = mem_put,
                                      .del = mem_del,
                                      .clear = mem_clear,
                                      .scan = mem_scan,
                                      .last = mem_last};

int kv_mem_open(struct kv **ret)
{
    struct mem *mem = calloc(1, sizeof *mem);
    if (mem == NULL)
        return -E_NOMEM;
    mem->base.ops = &mem_ops;
    mem->magic = MEM_MAGIC;
    *ret = &mem->base;
    return 0;
}
