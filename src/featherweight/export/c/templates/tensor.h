/* Whole tensors as numbers, float32, bit for bit those of the file. */

typedef struct fw_tensor {
    fw_code code;
    uint8_t format, bits, groups; /* bits of an integer; groups: 1: those who share a scale end with their row */
    uint32_t run;                 /* weights that share a scale */
    const uint32_t *numbers;      /* scales, or the codebook: float32, as bits */
    const int16_t *zero_points;   /* or NULL */
} fw_tensor;

enum { FW_INT, FW_CLUSTERED, FW_FLOAT16, FW_BFLOAT16 };

static inline float fw_from_float16(uint32_t half)
{
    uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 0x3FFu;
    float tiny;
    if (exponent)
        return fw_float(sign | (exponent + 112u) << 23 | mantissa << 13);
    tiny = (float)mantissa * 5.9604644775390625e-8f; /* 2^-24 */
    return sign ? -tiny : tiny;
}

/* Write `code.count` numbers; `work`, aligned to 8 bytes: what the decoder needs. 0: damaged, or too little memory. */
static inline int fw_decode(const fw_tensor *tensor, float *out, void *work, uint32_t size)
{
    fw_stream stream;
    uint32_t i, column = 0, unit = 0, used = 0;
    if (!fw_open(&stream, &tensor->code, work, size))
        return 0;
    for (i = 0; i < tensor->code.count; i++) {
        int32_t symbol = (int32_t)fw_next(&stream), most;
        if (tensor->format == FW_CLUSTERED) {
            out[i] = fw_float(tensor->numbers[symbol]);
        } else if (tensor->format == FW_FLOAT16) {
            out[i] = fw_from_float16((uint32_t)symbol);
        } else if (tensor->format == FW_BFLOAT16) {
            out[i] = fw_float((uint32_t)symbol << 16);
        } else {
            most = ((int32_t)1 << (tensor->bits - 1u)) - 1 - (tensor->zero_points ? tensor->zero_points[unit] : 0);
            symbol = symbol > most ? symbol - ((int32_t)1 << tensor->bits) : symbol;
            out[i] = (float)symbol * fw_float(tensor->numbers[unit]);
            column = column + 1u == tensor->code.row ? 0 : column + 1u;
            if (++used == tensor->run || (tensor->groups && column == 0)) {
                unit++;
                used = 0;
            }
        }
    }
    return fw_close(&stream);
}
