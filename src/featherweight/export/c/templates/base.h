/* What every part needs: types, memory from a given block, rounding. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FW_NO_ZERO 0xFFFFFFFFu /* a stream of which no symbol means zero */

/* Memory that its owner hands out from the front; nothing is freed but all of it at once. */
typedef struct fw_space {
    unsigned char *start; /* aligned to 8 bytes */
    uint32_t size, used;
} fw_space;

/* Return `count` things of `size` bytes (at most 8), aligned to 8, or NULL if they do not fit. */
static inline void *fw_take(fw_space *space, uint32_t count, uint32_t size)
{
    uint64_t bytes = ((uint64_t)count * size + 7u) & ~(uint64_t)7u;
    void *found = space->start + space->used;
    if (bytes > (uint64_t)(space->size - space->used))
        return NULL;
    space->used += (uint32_t)bytes;
    return found;
}

static inline int32_t fw_clamp(int32_t value, int32_t least, int32_t most)
{
    return value < least ? least : value > most ? most : value;
}

/* value / 2^shift to the nearest integer, half to even; shift 0 to 63, value below 2^63. */
static inline uint64_t fw_round_shift(uint64_t value, uint32_t shift)
{
    uint64_t whole, rest, half;
    if (shift == 0)
        return value;
    whole = value >> shift;
    rest = value & (((uint64_t)1 << shift) - 1u);
    half = (uint64_t)1 << (shift - 1u);
    return whole + (rest > half || (rest == half && (whole & 1u)) ? 1u : 0u);
}

/* The same of a signed value, clamped to what int32_t holds. */
static inline int32_t fw_round(int64_t value, uint32_t shift)
{
    uint64_t size = value < 0 ? (uint64_t)0 - (uint64_t)value : (uint64_t)value;
    size = fw_round_shift(size, shift);
    size = size > 0x40000000u ? 0x40000000u : size;
    return value < 0 ? -(int32_t)size : (int32_t)size;
}
