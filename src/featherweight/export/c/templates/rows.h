/* Weights, a row at a time: of one output channel, decoded just before it is used. */

/* Integers of `bits` (1 to 8) in two's complement. */
static inline void fw_row_int8(fw_stream *stream, int8_t *row, uint32_t count, uint32_t bits)
{
    uint32_t i, half = (uint32_t)1 << (bits - 1u);
    for (i = 0; i < count; i++) {
        int32_t symbol = (int32_t)fw_next(stream);
        row[i] = (int8_t)((uint32_t)symbol >= half ? symbol - 2 * (int32_t)half : symbol);
    }
}

/* Entries of a codebook. */
static inline void fw_row_codebook(fw_stream *stream, int32_t *row, uint32_t count, const int32_t *codebook)
{
    uint32_t i;
    for (i = 0; i < count; i++)
        row[i] = codebook[fw_next(stream)];
}
