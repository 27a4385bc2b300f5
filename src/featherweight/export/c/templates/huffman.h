/* Huffman: words of symbols (Tunstall), under a canonical Huffman code; both grow from the frequency table.
   Coded words follow one another; the lengths of lanes of 512, which a parallel decoder needs, are checked.
   D. A. Huffman, 1952; B. P. Tunstall, 1967; A. Moffat and J. Katajainen, "In-place calculation of
   minimum-redundancy codes", 1995. */

typedef struct fw_huffman {
    fw_bits bits;
    fw_list lanes;
    uint32_t lane, lanes_of, least, lane_start, words_read; /* lane: number of the current one */
    uint32_t distinct, depth;                               /* depth: symbols of a word still to give */
    uint16_t *symbols;                                      /* [distinct] */
    uint16_t *order;                                        /* [words], by width, then by number */
    uint16_t *parents;                                      /* [inner], words; of the root: unused */
    uint16_t *path;                                         /* [inner], ranks of a word, the last first */
    uint32_t widths[32];                                    /* how many words have each width */
} fw_huffman;

/* A weight of 38 bits is kept in two parts. */
typedef struct fw_grown {
    uint32_t *low;
    uint8_t *high;
} fw_grown;

static inline uint64_t fw_grown_weight(const fw_grown *of, uint32_t word)
{
    return (uint64_t)of->high[word] << 32 | of->low[word];
}

/* Whether `a` is expanded before `b`: it weighs more, or as much and has a lower number. */
static inline int fw_grown_first(const fw_grown *of, uint32_t a, uint32_t b)
{
    uint64_t x = fw_grown_weight(of, a), y = fw_grown_weight(of, b);
    return x > y || (x == y && a < b);
}

static inline void fw_heap_push(const fw_grown *of, uint16_t *heap, uint32_t size, uint32_t word)
{
    uint32_t at = size, up;
    for (; at > 0; at = up) {
        up = (at - 1u) / 2u;
        if (!fw_grown_first(of, word, heap[up]))
            break;
        heap[at] = heap[up];
    }
    heap[at] = (uint16_t)word;
}

static inline uint32_t fw_heap_pop(const fw_grown *of, uint16_t *heap, uint32_t size)
{
    uint32_t found = heap[0], last = heap[size - 1u], at = 0, below;
    size--;
    while ((below = 2u * at + 1u) < size) {
        if (below + 1u < size && fw_grown_first(of, heap[below + 1u], heap[below]))
            below++;
        if (!fw_grown_first(of, heap[below], last))
            break;
        heap[at] = heap[below];
        at = below;
    }
    if (size)
        heap[at] = (uint16_t)last;
    return found;
}

static inline int fw_keyed_less(const uint32_t *keys, const uint16_t *words, uint32_t a, uint32_t b)
{
    return keys[a] < keys[b] || (keys[a] == keys[b] && words[a] < words[b]);
}

static inline void fw_keyed_swap(uint32_t *keys, uint16_t *words, uint32_t a, uint32_t b)
{
    uint32_t key = keys[a];
    uint16_t word = words[a];
    keys[a] = keys[b];
    words[a] = words[b];
    keys[b] = key;
    words[b] = word;
}

static inline void fw_keyed_sift(uint32_t *keys, uint16_t *words, uint32_t at, uint32_t count)
{
    uint32_t below;
    while ((below = 2u * at + 1u) < count) {
        if (below + 1u < count && fw_keyed_less(keys, words, below, below + 1u))
            below++;
        if (!fw_keyed_less(keys, words, at, below))
            return;
        fw_keyed_swap(keys, words, at, below);
        at = below;
    }
}

/* Sort words by their keys, of equal keys by number: heap sort, in place. */
static inline void fw_keyed_sort(uint32_t *keys, uint16_t *words, uint32_t count)
{
    uint32_t i;
    for (i = count / 2u; i-- > 0;)
        fw_keyed_sift(keys, words, i, count);
    for (i = count; i-- > 1u;) {
        fw_keyed_swap(keys, words, 0, i);
        fw_keyed_sift(keys, words, 0, i);
    }
}

/* Turn rising weights into the widths of a Huffman code, in place; of equals, words are joined before sums. */
static inline void fw_huffman_widths(uint32_t *a, uint32_t count)
{
    uint32_t root = 0, leaf = 2, next, open = 1, used = 0, depth = 0, part;
    a[0] += a[1];
    for (next = 1; next + 1u < count; next++) {
        for (part = 0; part < 2u; part++) {
            uint32_t weight;
            if (leaf >= count || (root < next && a[root] < a[leaf])) {
                weight = a[root];
                a[root++] = next;
            } else {
                weight = a[leaf++];
            }
            a[next] = part ? a[next] + weight : weight;
        }
    }
    a[count - 2u] = 0;
    for (next = count - 2u; next-- > 0;)
        a[next] = a[a[next]] + 1u;
    root = count - 1u; /* one above the node that is looked at */
    next = count;
    while (open > 0) {
        while (root > 0 && a[root - 1u] == depth) {
            used++;
            root--;
        }
        for (; open > used; open--)
            a[--next] = depth;
        open = 2u * used;
        depth++;
        used = 0;
    }
}

/* Grow the words of a table and their code. */
static inline int fw_huffman_grow(fw_huffman *code, fw_table *table, uint32_t count, fw_space *space)
{
    uint32_t d = table->distinct, limit = count < 4096u ? count : 4096u;
    uint32_t inner = (limit + d - 2u) / (d - 1u), words, i, k, size = 0, symbol, mark;
    uint32_t *shares;
    fw_grown grown;
    uint64_t parent = (uint64_t)1 << 38, child;
    inner = inner > 2u ? inner - 1u : 1u;
    words = inner * d;
    code->symbols = (uint16_t *)fw_take(space, d, 2);
    code->order = (uint16_t *)fw_take(space, words, 2);
    code->parents = (uint16_t *)fw_take(space, inner, 2);
    code->path = (uint16_t *)fw_take(space, inner, 2);
    mark = space->used; /* what follows is needed only here */
    shares = (uint32_t *)fw_take(space, d, 4);
    grown.low = (uint32_t *)fw_take(space, words, 4);
    grown.high = (uint8_t *)fw_take(space, words, 1);
    if (!code->symbols || !code->order || !code->parents || !code->path || !shares || !grown.low || !grown.high)
        return 0;
    for (i = 0; i < d; i++) {
        if (!fw_table_next(table, &symbol, &shares[i]))
            return 0;
        code->symbols[i] = (uint16_t)symbol;
    }
    code->parents[0] = 0;
    for (i = 0; i < inner; i++) { /* the leaves are in a heap, kept where their order will be */
        if (i > 0) {
            uint32_t word = fw_heap_pop(&grown, code->order, size--);
            parent = fw_grown_weight(&grown, word);
            grown.low[word] = 0; /* an inner node: it will weigh 1 */
            grown.high[word] = 0;
            code->parents[i] = (uint16_t)word;
        }
        for (k = 0; k < d; k++) {
            child = parent * shares[k] / table->total;
            child = child ? child : 1u;
            grown.low[i * d + k] = (uint32_t)(child & 0xFFFFFFFFu);
            grown.high[i * d + k] = (uint8_t)(child >> 32);
        }
        for (k = 0; k < d; k++)
            fw_heap_push(&grown, code->order, size++, i * d + k);
    }
    for (i = 0; i < words; i++) {
        uint32_t weight = (uint32_t)(fw_grown_weight(&grown, i) >> 18);
        grown.low[i] = weight ? weight : 1u;
        code->order[i] = (uint16_t)i;
    }
    fw_keyed_sort(grown.low, code->order, words);
    fw_huffman_widths(grown.low, words);
    for (i = 0; i < 32u; i++)
        code->widths[i] = 0;
    for (i = 0; i < words; i++) {
        if (grown.low[i] > 31u)
            return 0;
        code->widths[grown.low[i]]++;
    }
    fw_keyed_sort(grown.low, code->order, words);
    space->used = mark;
    return 1;
}

static inline int fw_huffman_open(
    fw_huffman *code, const uint8_t *bytes, uint32_t size, uint32_t count, uint32_t alphabet, fw_space *space)
{
    fw_bits *bits = &code->bits;
    fw_table table;
    fw_list one;
    uint32_t further, share, symbol;
    bits->bytes = bytes;
    bits->size = 8u * size;
    bits->at = 0;
    code->distinct = code->depth = code->words_read = code->lane = 0;
    code->lanes_of = 1;
    if (count == 0)
        return size == 0;
    if (!fw_table_open(&table, bits, count, alphabet))
        return 0;
    code->distinct = table.distinct;
    if (table.distinct == 1u) {
        code->symbols = (uint16_t *)fw_take(space, 1, 2);
        if (!code->symbols || !fw_table_next(&table, &symbol, &share))
            return 0;
        code->symbols[0] = (uint16_t)symbol;
        return (bits->at + 7u) / 8u == size;
    }
    if (!fw_huffman_grow(code, &table, count, space) || !fw_list_open(&one, bits, 1))
        return 0;
    further = fw_list_next(&one);
    if ((uint64_t)further * 512u > count || (uint64_t)further * 512u > bits->size)
        return 0;
    code->lanes_of = further + 1u;
    if (further) {
        if (!fw_list_open(&one, bits, 1))
            return 0;
        code->least = fw_list_next(&one);
        if (!fw_list_open(&code->lanes, bits, further))
            return 0;
    }
    bits->at = (bits->at + 7u) / 8u * 8u;
    code->lane_start = bits->at;
    return bits->at <= bits->size;
}

/* Read one word and lay its ranks out; 0: the payload is damaged. */
static inline int fw_huffman_word(fw_huffman *code)
{
    uint32_t width, first = 0, index = 0, value = 0, word;
    if (code->words_read == 512u) {
        uint64_t expected;
        if (++code->lane == code->lanes_of)
            return 0;
        expected = (uint64_t)code->lane_start + code->least + fw_list_next(&code->lanes);
        if (expected != code->bits.at)
            return 0;
        code->lane_start = code->bits.at;
        code->words_read = 0;
    }
    for (width = 1; width < 32u; width++) {
        value = value << 1 | fw_bit(&code->bits, code->bits.at++);
        if (value - first < code->widths[width])
            break;
        index += code->widths[width];
        first = (first + code->widths[width]) << 1;
    }
    if (width == 32u || code->bits.at > code->bits.size)
        return 0;
    code->words_read++;
    word = code->order[index + value - first];
    for (code->depth = 0;; word = code->parents[word / code->distinct]) {
        code->path[code->depth++] = (uint16_t)(word % code->distinct);
        if (word < code->distinct)
            return 1;
    }
}

static inline uint32_t fw_huffman_next(fw_huffman *code, uint8_t *failed)
{
    if (code->distinct == 1u)
        return code->symbols[0];
    if (code->depth == 0 && !fw_huffman_word(code)) {
        *failed = 1;
        return 0;
    }
    return code->symbols[code->path[--code->depth]];
}

/* Whether the last word was in the last lane and ended in the last byte. */
static inline int fw_huffman_end(const fw_huffman *code)
{
    return code->distinct < 2u || (code->lane + 1u == code->lanes_of && (code->bits.at + 7u) / 8u == code->bits.size / 8u);
}
