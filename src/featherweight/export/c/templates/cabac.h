/* Cabac: binary arithmetic coding in contexts that learn. S. Wiedemann et al., "DeepCABAC", 2019. */

typedef struct fw_model {
    uint32_t fast, slow; /* probabilities of yes, of 2^32 */
    uint32_t seen;
} fw_model;

typedef struct fw_cabac {
    const uint8_t *bytes;
    uint32_t size, at; /* at: bytes read, four of them behind the end at most */
    uint64_t low, range;
    uint32_t alphabet, centre, split, row, column, before;
    uint32_t most;       /* width of the largest remainder that a symbol can have */
    uint8_t splits, slow, idle;
    fw_model *models;
    uint16_t *densities; /* [row], of 2^16 */
} fw_cabac;

enum { FW_SIGN = 18, FW_GREATER = 21, FW_PREFIX = 41 };

static inline void fw_cabac_byte(fw_cabac *code, uint8_t *failed)
{
    code->low = code->low << 8 | (code->at < code->size ? code->bytes[code->at] : 0u);
    if (code->at++ >= code->size && code->at > code->size + 4u)
        *failed = 1;
}

/* Read a decision, and let the model of its context learn it. */
static inline uint32_t fw_cabac_decide(fw_cabac *code, uint32_t context, uint8_t *failed)
{
    fw_model *model = &code->models[context];
    uint64_t chance = ((uint64_t)model->fast + model->slow) >> 17, bound, step;
    uint32_t fast_limit = code->slow ? 128u : 16u, slow_limit = code->slow ? 4096u : 256u, yes;
    uint32_t fast_rate = ((uint32_t)1 << 17) / (2u * (model->seen < fast_limit ? model->seen : fast_limit) + 3u);
    uint32_t slow_rate = ((uint32_t)1 << 17) / (2u * model->seen + 3u);
    bound = (code->range >> 16) * (chance ? chance : 1u);
    yes = code->low < bound;
    if (yes) {
        code->range = bound;
        step = (((uint64_t)1 << 32) - model->fast) * fast_rate >> 16;
        model->fast += (uint32_t)step;
        step = (((uint64_t)1 << 32) - model->slow) * slow_rate >> 16;
        model->slow += (uint32_t)step;
    } else {
        code->low -= bound;
        code->range -= bound;
        step = ((uint64_t)model->fast * fast_rate + 0xFFFFu) >> 16;
        model->fast -= (uint32_t)step;
        step = ((uint64_t)model->slow * slow_rate + 0xFFFFu) >> 16;
        model->slow -= (uint32_t)step;
    }
    if (model->seen < slow_limit)
        model->seen++;
    while (code->range >> 32 == 0) {
        code->range <<= 8;
        fw_cabac_byte(code, failed);
    }
    return yes;
}

/* How many models an alphabet needs; `most`: as in fw_cabac. */
static inline uint32_t fw_cabac_models(uint32_t most)
{
    return FW_PREFIX + most + 1u + most * (most + 1u) / 2u;
}

static inline int fw_cabac_open(
    fw_cabac *code, const uint8_t *bytes, uint32_t size, uint32_t count, uint32_t alphabet, uint32_t zero,
    uint32_t row, fw_space *space)
{
    uint32_t at = 1, i, models;
    uint8_t failed = 0;
    code->idle = count == 0 || alphabet == 1u;
    if (code->idle)
        return size == 0;
    if (size == 0 || bytes[0] > 3u)
        return 0;
    code->splits = bytes[0] & 1u;
    code->slow = bytes[0] >> 1;
    code->centre = zero;
    code->split = 0;
    if (zero == FW_NO_ZERO && !fw_length(bytes, size, &at, &code->centre))
        return 0;
    if (code->splits && !fw_length(bytes, size, &at, &code->split))
        return 0;
    if (code->centre >= alphabet || code->split >= alphabet)
        return 0;
    code->alphabet = alphabet;
    code->row = row < count ? row : count;
    code->column = code->before = code->most = 0;
    while (alphabet >> (code->most + 1u))
        code->most++;
    models = fw_cabac_models(code->most);
    code->models = (fw_model *)fw_take(space, 3u * models, 4);
    code->densities = (uint16_t *)fw_take(space, code->row, 2);
    if (!code->models || !code->densities)
        return 0;
    for (i = 0; i < models; i++) {
        code->models[i].fast = code->models[i].slow = (uint32_t)1 << 31;
        code->models[i].seen = 0;
    }
    for (i = 0; i < code->row; i++)
        code->densities[i] = (uint16_t)1 << 13;
    code->bytes = bytes + at;
    code->size = size - at;
    code->at = 0;
    code->low = 0;
    code->range = (uint64_t)1 << 40;
    for (i = 0; i < 5u; i++)
        fw_cabac_byte(code, &failed);
    return !failed;
}

/* Read the magnitude of a value that is not 0; 0: no symbol has it. */
static inline uint32_t fw_cabac_size(fw_cabac *code, uint32_t negative, uint8_t *failed)
{
    uint32_t size = 1, width = 0, rest = 1, place;
    while (size <= 10u) {
        if (!fw_cabac_decide(code, FW_GREATER + 10u * negative + size - 1u, failed))
            return size;
        size++;
    }
    while (fw_cabac_decide(code, FW_PREFIX + width, failed))
        if (++width > code->most)
            return 0;
    for (place = width; place-- > 0;)
        rest = rest << 1
            | fw_cabac_decide(code, FW_PREFIX + code->most + 1u + width * (width - 1u) / 2u + place, failed);
    return 10u + rest;
}

/* Give the symbol of a value. */
static inline uint32_t fw_cabac_symbol(const fw_cabac *code, uint32_t size, uint32_t negative, uint8_t *failed)
{
    uint32_t alphabet = code->alphabet, rank;
    if (size == 0)
        return code->centre;
    if (!code->splits) {
        if (size > (negative ? alphabet / 2u : (alphabet - 1u) / 2u))
            *failed = 1;
        return (code->centre + (negative ? alphabet - size % alphabet : size)) % alphabet;
    }
    if (negative ? size > code->split : code->split + size - 1u >= alphabet - 1u)
        *failed = 1;
    rank = negative ? code->split - size : code->split + size - 1u;
    return rank >= code->centre ? rank + 1u : rank;
}

static inline uint32_t fw_cabac_next(fw_cabac *code, uint8_t *failed)
{
    uint32_t density, level = 0, size = 0, negative = 0, symbol;
    if (code->idle)
        return 0;
    density = code->densities[code->column];
    while (level < 5u && density < (uint32_t)1 << (15u - level))
        level++;
    if (fw_cabac_decide(code, 6u * code->before + level, failed)) {
        negative = fw_cabac_decide(code, FW_SIGN + code->before, failed);
        size = fw_cabac_size(code, negative, failed);
        if (size == 0)
            *failed = 1;
    }
    symbol = fw_cabac_symbol(code, size, negative, failed);
    density = size ? density + ((65536u - density) >> 5) : density - ((density + 31u) >> 5);
    code->densities[code->column] = (uint16_t)density;
    code->before = size == 0 ? 0u : negative ? 1u : 2u;
    if (++code->column == code->row)
        code->column = code->before = 0;
    return *failed ? 0u : symbol;
}

/* Whether exactly the payload was read. */
static inline int fw_cabac_end(const fw_cabac *code)
{
    return code->idle || (code->at == code->size + 4u && code->low >> 32 == 0);
}
