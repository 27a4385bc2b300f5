/* A stream of symbols, given one by one, whatever its coder.

   Every function takes lengths and stops there: a damaged payload sets `failed` (fw_open or fw_close return 0),
   and nothing is read or written outside the payload and the workspace. */

enum { FW_FIXED, FW_RANS, FW_HUFFMAN, FW_CABAC };    /* coders of one stream */
enum { FW_PLAIN, FW_BITMASK, FW_GAPS };              /* what lies in the payload: that stream, or zeros and values */

/* What is known of a stream before it is read. */
typedef struct fw_code {
    const uint8_t *payload;
    uint32_t size, count, alphabet, zero, row; /* zero: a symbol, or FW_NO_ZERO; row: symbols in a row */
    uint8_t kind, values, where, bits;         /* coders of values and of mask or gaps; bits of a gap */
} fw_code;

/* One coder over one run of bytes. */
typedef struct fw_leaf {
    uint8_t coder, failed;
    uint32_t alphabet;
    union {
        uint8_t none;
#ifdef FW_HAS_FIXED
        fw_fixed fixed;
#endif
#ifdef FW_HAS_RANS
        fw_rans rans;
#endif
#ifdef FW_HAS_HUFFMAN
        fw_huffman huffman;
#endif
#ifdef FW_HAS_CABAC
        fw_cabac cabac;
#endif
    } as;
} fw_leaf;

static inline int fw_leaf_open(
    fw_leaf *leaf, uint8_t coder, const uint8_t *bytes, uint32_t size, uint32_t count, uint32_t alphabet,
    uint32_t zero, uint32_t row, fw_space *space)
{
    leaf->coder = coder;
    leaf->failed = 0;
    leaf->alphabet = alphabet;
    (void)zero, (void)row, (void)space, (void)bytes, (void)size, (void)count;
    if (size > (uint32_t)1 << 28)
        return 0;
    switch (coder) {
#ifdef FW_HAS_FIXED
    case FW_FIXED: return fw_fixed_open(&leaf->as.fixed, bytes, size, count, alphabet);
#endif
#ifdef FW_HAS_RANS
    case FW_RANS: return fw_rans_open(&leaf->as.rans, bytes, size, count, alphabet, space);
#endif
#ifdef FW_HAS_HUFFMAN
    case FW_HUFFMAN: return fw_huffman_open(&leaf->as.huffman, bytes, size, count, alphabet, space);
#endif
#ifdef FW_HAS_CABAC
    case FW_CABAC: return fw_cabac_open(&leaf->as.cabac, bytes, size, count, alphabet, zero, row, space);
#endif
    default: return 0;
    }
}

/* Give the next symbol; it is the caller who counts them. */
static inline uint32_t fw_leaf_next(fw_leaf *leaf)
{
    uint32_t symbol = 0;
    if (leaf->failed)
        return 0;
    switch (leaf->coder) {
#ifdef FW_HAS_FIXED
    case FW_FIXED: symbol = fw_fixed_next(&leaf->as.fixed); break;
#endif
#ifdef FW_HAS_RANS
    case FW_RANS: symbol = fw_rans_next(&leaf->as.rans); break;
#endif
#ifdef FW_HAS_HUFFMAN
    case FW_HUFFMAN: symbol = fw_huffman_next(&leaf->as.huffman, &leaf->failed); break;
#endif
#ifdef FW_HAS_CABAC
    case FW_CABAC: symbol = fw_cabac_next(&leaf->as.cabac, &leaf->failed); break;
#endif
    default: break;
    }
    if (symbol >= leaf->alphabet) {
        leaf->failed = 1;
        symbol = 0;
    }
    return symbol;
}

/* Whether all that was read is all there is. */
static inline int fw_leaf_end(const fw_leaf *leaf)
{
    if (leaf->failed)
        return 0;
    switch (leaf->coder) {
#ifdef FW_HAS_RANS
    case FW_RANS: return fw_rans_end(&leaf->as.rans);
#endif
#ifdef FW_HAS_HUFFMAN
    case FW_HUFFMAN: return fw_huffman_end(&leaf->as.huffman);
#endif
#ifdef FW_HAS_CABAC
    case FW_CABAC: return fw_cabac_end(&leaf->as.cabac);
#endif
    default: return 1;
    }
}

typedef struct fw_stream {
    const fw_code *code;
    fw_leaf values;
#ifdef FW_HAS_SPARSE
    fw_leaf where;
    uint32_t zeros, gaps; /* zeros to give before the next value; gaps that are left */
    uint8_t pending;      /* whether that value is known to come */
#endif
} fw_stream;

#ifdef FW_HAS_SPARSE
static inline int fw_where_open(fw_stream *stream, const uint8_t *bytes, uint32_t size, fw_space *space)
{
    const fw_code *code = stream->code;
    if (code->kind == FW_BITMASK)
        return fw_leaf_open(&stream->where, code->where, bytes, size, code->count, 2, 0, code->row, space);
    return fw_leaf_open(
        &stream->where, code->where, bytes, size, stream->gaps, (uint32_t)1 << code->bits, FW_NO_ZERO,
        stream->gaps ? stream->gaps : 1u, space);
}

/* The places are read twice: once to learn how many values there are, which their coder has to know. */
static inline int fw_sparse_open(fw_stream *stream, fw_space *space)
{
    const fw_code *code = stream->code;
    uint32_t at = 0, size, i, symbol, values = 0, mark = space->used, filler = ((uint32_t)1 << code->bits) - 1u;
    uint64_t covered = 0;
    stream->zeros = stream->gaps = stream->pending = 0;
    if (code->zero >= code->alphabet)
        return 0;
    if (code->kind == FW_GAPS
        && (!fw_length(code->payload, code->size, &at, &stream->gaps) || stream->gaps > code->count))
        return 0;
    if (!fw_length(code->payload, code->size, &at, &size) || size > code->size - at)
        return 0;
    if (!fw_where_open(stream, code->payload + at, size, space))
        return 0;
    for (i = 0; i < (code->kind == FW_GAPS ? stream->gaps : code->count) && !stream->where.failed; i++) {
        symbol = fw_leaf_next(&stream->where);
        if (code->kind == FW_BITMASK) {
            values += symbol;
        } else {
            values += symbol != filler;
            covered += symbol + (symbol != filler);
        }
    }
    if (!fw_leaf_end(&stream->where))
        return 0;
    if (code->kind == FW_GAPS && (covered > code->count || code->count - covered >= filler))
        return 0;
    space->used = mark;
    if (!fw_where_open(stream, code->payload + at, size, space))
        return 0;
    at += size;
    return fw_leaf_open(
        &stream->values, code->values, code->payload + at, code->size - at, values, code->alphabet - 1u,
        FW_NO_ZERO, values ? values : 1u, space);
}

/* Whether the next symbol is not zero. */
static inline int fw_sparse_value(fw_stream *stream)
{
    uint32_t gap, filler = ((uint32_t)1 << stream->code->bits) - 1u;
    if (stream->code->kind == FW_BITMASK)
        return (int)fw_leaf_next(&stream->where);
    while (stream->zeros == 0 && !stream->pending && stream->gaps > 0) {
        stream->gaps--;
        gap = fw_leaf_next(&stream->where);
        stream->zeros = gap;
        stream->pending = gap != filler;
    }
    if (stream->zeros > 0) {
        stream->zeros--;
        return 0;
    }
    gap = stream->pending;
    stream->pending = 0;
    return (int)gap;
}
#endif

/* Open a stream; `work` (aligned to 8 bytes) is used until its end. 0: damaged, or too little memory. */
static inline int fw_open(fw_stream *stream, const fw_code *code, void *work, uint32_t size)
{
    fw_space space;
    space.start = (unsigned char *)work;
    space.size = size;
    space.used = 0;
    memset(stream, 0, sizeof *stream);
    stream->code = code;
#ifdef FW_HAS_SPARSE
    if (code->kind != FW_PLAIN)
        return fw_sparse_open(stream, &space);
#endif
    return code->kind == FW_PLAIN
        && fw_leaf_open(
               &stream->values, code->values, code->payload, code->size, code->count, code->alphabet, code->zero,
               code->row, &space);
}

/* Give the next of `code->count` symbols. */
static inline uint32_t fw_next(fw_stream *stream)
{
#ifdef FW_HAS_SPARSE
    if (stream->code->kind != FW_PLAIN) {
        uint32_t symbol;
        if (!fw_sparse_value(stream))
            return stream->code->zero;
        symbol = fw_leaf_next(&stream->values);
        return symbol + (symbol >= stream->code->zero);
    }
#endif
    return fw_leaf_next(&stream->values);
}

/* Whether the stream, read to its end, was whole. */
static inline int fw_close(const fw_stream *stream)
{
#ifdef FW_HAS_SPARSE
    if (stream->code->kind != FW_PLAIN && !fw_leaf_end(&stream->where))
        return 0;
#endif
    return fw_leaf_end(&stream->values);
}
