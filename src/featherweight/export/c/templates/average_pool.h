/* Windows lie inside. The sum of each, exact, is multiplied and rounded, half to even. */
static inline void fw_average_pool(const fw_pool *pool, const uint8_t *x, uint8_t *y)
{
    uint32_t c, i, j, h, w;
    for (c = 0; c < pool->channels; c++, x += (size_t)pool->height * pool->width) {
        for (i = 0; i < pool->out_height; i++) {
            for (j = 0; j < pool->out_width; j++) {
                int64_t sum = 0;
                for (h = 0; h < pool->kernel_h; h++)
                    for (w = 0; w < pool->kernel_w; w++)
                        sum += (int32_t)x[(size_t)(i * pool->stride_h + h) * pool->width + j * pool->stride_w + w] - pool->zero;
                sum = fw_round(sum * pool->multiplier, pool->shift);
                *y++ = (uint8_t)fw_clamp((int32_t)sum + pool->out_zero, pool->least, pool->most);
            }
        }
    }
}
