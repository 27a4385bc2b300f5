static inline void fw_max_pool(const fw_pool *pool, const uint8_t *x, uint8_t *y)
{
    uint32_t c, i, j, h, w;
    for (c = 0; c < pool->channels; c++, x += (size_t)pool->height * pool->width) {
        for (i = 0; i < pool->out_height; i++) {
            for (j = 0; j < pool->out_width; j++) {
                uint8_t most = 0;
                for (h = 0; h < pool->kernel_h; h++) {
                    int32_t line = (int32_t)(i * pool->stride_h + h * pool->dilation_h) - pool->pad_top;
                    if (line < 0 || line >= pool->height)
                        continue;
                    for (w = 0; w < pool->kernel_w; w++) {
                        int32_t column = (int32_t)(j * pool->stride_w + w * pool->dilation_w) - pool->pad_left;
                        uint8_t value;
                        if (column < 0 || column >= pool->width)
                            continue;
                        value = x[(size_t)line * pool->width + (size_t)column];
                        most = value > most ? value : most;
                    }
                }
                *y++ = most;
            }
        }
    }
}
