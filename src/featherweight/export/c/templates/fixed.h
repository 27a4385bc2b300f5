/* Fixed: symbols of so many bits one after another, least significant bit first. */

typedef struct fw_fixed {
    const uint8_t *bytes;
    uint32_t byte, bit, width;
} fw_fixed;

static inline int fw_fixed_open(fw_fixed *code, const uint8_t *bytes, uint32_t size, uint32_t count, uint32_t alphabet)
{
    code->bytes = bytes;
    code->byte = code->bit = code->width = 0;
    while (alphabet > 1u && (alphabet - 1u) >> code->width)
        code->width++;
    return size == ((uint64_t)count * code->width + 7u) / 8u;
}

static inline uint32_t fw_fixed_next(fw_fixed *code)
{
    uint32_t got = 0, symbol = 0, part;
    while (got < code->width) {
        part = 8u - code->bit;
        part = part > code->width - got ? code->width - got : part;
        symbol |= ((uint32_t)(code->bytes[code->byte] >> code->bit) & (((uint32_t)1 << part) - 1u)) << got;
        got += part;
        code->bit += part;
        code->byte += code->bit >> 3;
        code->bit &= 7u;
    }
    return symbol;
}
