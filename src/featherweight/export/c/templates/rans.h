/* Rans: asymmetric numeral systems, 24-bit weights, 32-bit words read from the last one on.
   J. Duda, "Asymmetric numeral systems", 2013. */

typedef struct fw_rans {
    const uint8_t *bytes;
    uint32_t size, word; /* of the words: bytes, and how many are left */
    uint64_t state;
    uint32_t distinct;
    uint32_t *starts;  /* [distinct + 1], of 2^24 */
    uint16_t *first;   /* [256], by the highest 8 of 24 bits: the symbol there, by its number */
    uint16_t *symbols; /* [distinct] */
} fw_rans;

static inline void fw_rans_refill(fw_rans *code)
{
    uint32_t i, at, value = 0;
    if (code->word == 0 || code->state >> 32)
        return;
    at = 4u * --code->word;
    for (i = 0; i < 4u && at + i < code->size; i++)
        value |= (uint32_t)code->bytes[at + i] << (8u * i);
    code->state = code->state << 32 | value;
}

static inline int fw_rans_open(
    fw_rans *code, const uint8_t *bytes, uint32_t size, uint32_t count, uint32_t alphabet, fw_space *space)
{
    fw_bits bits;
    fw_table table;
    uint32_t i, at, symbol, share, sum = 0, behind;
    bits.bytes = bytes;
    bits.size = 8u * size;
    bits.at = 0;
    code->word = code->size = code->distinct = 0;
    code->state = (uint64_t)1 << 24;
    if (count == 0)
        return size == 0;
    if (!fw_table_open(&table, &bits, count, alphabet))
        return 0;
    code->starts = (uint32_t *)fw_take(space, table.distinct + 1u, 4);
    code->symbols = (uint16_t *)fw_take(space, table.distinct, 2);
    code->first = (uint16_t *)fw_take(space, 256, 2);
    if (!code->starts || !code->symbols || !code->first)
        return 0;
    for (i = 0; i < table.distinct; i++) {
        if (!fw_table_next(&table, &symbol, &share))
            return 0;
        code->symbols[i] = (uint16_t)symbol;
        code->starts[i] = sum;
        sum += share;
    }
    for (i = 0; i < table.distinct; i++)
        code->starts[i] = (uint32_t)(((uint64_t)code->starts[i] << 24) / sum);
    code->starts[table.distinct] = (uint32_t)1 << 24;
    code->distinct = table.distinct;
    for (i = at = 0; i < 256u; i++) {
        while (code->starts[at + 1u] <= i << 16)
            at++;
        code->first[i] = (uint16_t)at;
    }
    behind = (bits.at + 7u) / 8u;
    if (table.distinct == 1u)
        return behind == size;
    code->bytes = bytes + behind;
    code->size = size - behind;
    code->word = (code->size + 3u) / 4u;
    code->state = 0;
    if (code->size && code->bytes[code->size - 1u] == 0)
        return 0;
    fw_rans_refill(code);
    fw_rans_refill(code);
    return 1;
}

static inline uint32_t fw_rans_next(fw_rans *code)
{
    uint32_t q = (uint32_t)(code->state & 0xFFFFFFu), at, share;
    if (code->distinct == 1u)
        return code->symbols[0];
    at = code->first[q >> 16];
    while (code->starts[at + 1u] <= q)
        at++;
    share = code->starts[at + 1u] - code->starts[at];
    code->state = (code->state >> 24) * share + (q - code->starts[at]);
    fw_rans_refill(code);
    return code->symbols[at];
}

/* Whether all symbols were read and no word is left. */
static inline int fw_rans_end(const fw_rans *code)
{
    return code->state == (uint64_t)1 << 24 && code->word == 0;
}
