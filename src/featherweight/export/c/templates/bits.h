/* Bit strings, most significant bit first; lists of integers; tables of frequencies; lengths. */

typedef struct fw_bits {
    const uint8_t *bytes;
    uint32_t size, at; /* in bits */
} fw_bits;

/* Bits behind the end are zeros; who reads them finds `at` beyond `size`. */
static inline uint32_t fw_bit(const fw_bits *bits, uint32_t at)
{
    return at < bits->size ? (uint32_t)(bits->bytes[at >> 3] >> (7u - (at & 7u))) & 1u : 0u;
}

/* A list of integers, read by two cursors: all lengths come first, in unary, then all low bits. */
typedef struct fw_list {
    fw_bits lengths, low;
    uint32_t order;
} fw_list;

/* Open a list of `count` integers and move `bits` behind it; 0: it is damaged. */
static inline int fw_list_open(fw_list *list, fw_bits *bits, uint32_t count)
{
    uint32_t i, width, order = 0;
    uint64_t total = 0;
    if (bits->size - bits->at < 5u)
        return 0;
    for (i = 0; i < 5u; i++)
        order = order << 1 | fw_bit(bits, bits->at++);
    list->order = order;
    list->lengths = list->low = *bits;
    if (order == 31u)
        return 1;
    for (i = 0; i < count; i++) {
        for (width = order; bits->at < bits->size && !fw_bit(bits, bits->at); width++)
            bits->at++;
        if (bits->at++ >= bits->size || width > 31u)
            return 0;
        total += width;
    }
    list->low = *bits;
    if (total > bits->size - bits->at)
        return 0;
    bits->at += (uint32_t)total;
    return 1;
}

static inline uint32_t fw_list_next(fw_list *list)
{
    uint32_t width = list->order, value = 1;
    if (list->order == 31u)
        return 0;
    while (!fw_bit(&list->lengths, list->lengths.at++))
        width++;
    for (; width > 0; width--)
        value = value << 1 | fw_bit(&list->low, list->low.at++);
    return value - ((uint32_t)1 << list->order);
}

/* The symbols that occur, rising, and their counts: behind `fw_table_open`, what `fw_table_next` gives. */
typedef struct fw_table {
    fw_list gaps, counts;
    uint32_t distinct, symbol, alphabet, total;
} fw_table;

static inline int fw_table_open(fw_table *table, fw_bits *bits, uint32_t count, uint32_t alphabet)
{
    fw_list one;
    memset(table, 0, sizeof *table);
    if (!fw_list_open(&one, bits, 1))
        return 0;
    table->distinct = fw_list_next(&one) + 1u;
    table->symbol = (uint32_t)0 - 1u;
    table->alphabet = alphabet;
    table->total = 0;
    if (table->distinct > alphabet || table->distinct > count || !fw_list_open(&table->gaps, bits, table->distinct))
        return 0;
    return table->distinct == 1u || fw_list_open(&table->counts, bits, table->distinct);
}

/* Give the next symbol and its count; 0: no stream has such a table. */
static inline int fw_table_next(fw_table *table, uint32_t *symbol, uint32_t *count)
{
    uint32_t gap = fw_list_next(&table->gaps);
    uint32_t before = table->distinct == 1u ? 0u : fw_list_next(&table->counts);
    if (gap >= table->alphabet - (table->symbol + 1u) || before >= ((uint32_t)1 << 24) - table->total)
        return 0;
    *symbol = table->symbol += gap + 1u;
    *count = before + 1u;
    table->total += before + 1u;
    return 1;
}

/* Read a length: seven bits a byte, lowest first; 0: there is none. */
static inline int fw_length(const uint8_t *bytes, uint32_t size, uint32_t *at, uint32_t *value)
{
    uint64_t found = 0;
    uint32_t i;
    for (i = 0; i < 9u && *at < size; i++) {
        uint8_t byte = bytes[(*at)++];
        found |= (uint64_t)(byte & 127u) << (7u * i);
        if (byte < 128u) {
            *value = (uint32_t)(found & 0xFFFFFFFFu);
            return !(byte == 0 && i) && found >> 32 == 0;
        }
    }
    return 0;
}
