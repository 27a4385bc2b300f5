/* From sums to the integers of the next activation.

   The rule: the sum becomes a float32 number, is multiplied by a float32 scale, and the product, a float32
   number too, is rounded to the nearest integer, half to even. Here that is computed in integers, bit for bit,
   so that it is the same on every machine, with or without floating point, whatever the compiler may do to it. */

/* `scale`: the bits of a positive normal float32 number. What is beyond 2^30 is clamped to that. */
static inline int32_t fw_requantize(int32_t sum, uint32_t scale)
{
    uint64_t size = sum < 0 ? (uint64_t)(-(int64_t)sum) : (uint64_t)sum;
    int32_t exponent = (int32_t)(scale >> 23) - 150;
    uint32_t bits;
    if (size == 0)
        return 0;
    for (bits = 0; size >> bits > 0xFFFFFFu; bits++) {} /* the sum, in 24 bits */
    size = fw_round_shift(size, bits);
    exponent += (int32_t)bits;
    size *= (uint64_t)((scale & 0x7FFFFFu) | 0x800000u);
    for (bits = 0; size >> bits > 0xFFFFFFu; bits++) {} /* the product, in 24 bits */
    size = fw_round_shift(size, bits);
    exponent += (int32_t)bits;
    if (exponent > 6) /* the product is at least 2^23 times 2^exponent */
        size = 0x40000000u;
    else if (exponent >= 0)
        size <<= exponent;
    else
        size = exponent < -25 ? 0 : fw_round_shift(size, (uint32_t)-exponent);
    return sum < 0 ? -(int32_t)size : (int32_t)size;
}

/* The float32 number of these bits. */
static inline float fw_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
