/* A clamp that no range before it performs. */
static inline void fw_clamp_bytes(const uint8_t *x, uint8_t *y, uint32_t count, uint8_t least, uint8_t most)
{
    uint32_t i;
    for (i = 0; i < count; i++)
        y[i] = (uint8_t)fw_clamp(x[i], least, most);
}
