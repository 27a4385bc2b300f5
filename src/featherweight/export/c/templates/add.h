/* The sum of two activations: each less its zero, times a multiplier, the sum rounded, half to even. */

typedef struct fw_add {
    uint32_t count;
    int32_t multiplier_a, multiplier_b; /* of 2^shift */
    uint8_t shift, zero_a, zero_b, out_zero, least, most;
} fw_add;

static inline void fw_add_bytes(const fw_add *add, const uint8_t *a, const uint8_t *b, uint8_t *y)
{
    uint32_t i;
    for (i = 0; i < add->count; i++) {
        int64_t sum = (int64_t)add->multiplier_a * ((int32_t)a[i] - add->zero_a)
            + (int64_t)add->multiplier_b * ((int32_t)b[i] - add->zero_b);
        y[i] = (uint8_t)fw_clamp(fw_round(sum, add->shift) + add->out_zero, add->least, add->most);
    }
}
