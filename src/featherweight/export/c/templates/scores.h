/* At the ends of the network: floats to bytes, bytes to scores, scores to a class. */

/* The byte of a number: value / scale, float32, to the nearest integer, half to even, and zero; NaN: zero. */
static inline uint8_t fw_to_byte(float value, float scale, int32_t zero, int32_t least, int32_t most)
{
    float ratio = value / scale, rest;
    int32_t whole;
    if (!(ratio > -1024.0f && ratio < 1024.0f))
        return (uint8_t)(ratio > 0.0f ? most : ratio < 0.0f ? least : zero);
    whole = (int32_t)ratio;
    rest = ratio - (float)whole;
    if (rest > 0.5f || (rest == 0.5f && whole % 2 != 0))
        whole++;
    else if (rest < -0.5f || (rest == -0.5f && whole % 2 != 0))
        whole--;
    return (uint8_t)fw_clamp(whole + zero, least, most);
}

/* What bytes stand for. */
static inline void fw_to_floats(const uint8_t *x, float *y, uint32_t count, float scale, int32_t zero)
{
    uint32_t i;
    for (i = 0; i < count; i++)
        y[i] = (float)((int32_t)x[i] - zero) * scale;
}

/* The place of the greatest score, of equals the first. */
static inline uint32_t fw_greatest(const float *scores, uint32_t count)
{
    uint32_t i, found = 0;
    for (i = 1; i < count; i++)
        if (scores[i] > scores[found])
            found = i;
    return found;
}
