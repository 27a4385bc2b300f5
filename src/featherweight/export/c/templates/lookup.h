/* Bytes of one quantizer as those of another: there are only 256. */
static inline void fw_lookup(const uint8_t *x, uint8_t *y, uint32_t count, const uint8_t *table)
{
    uint32_t i;
    for (i = 0; i < count; i++)
        y[i] = table[x[i]];
}
