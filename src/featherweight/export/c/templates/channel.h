/* One output channel of a layer: included once for each kind of weights, which differ in FW_WEIGHT, the type of
   FW_SUM, and what FW_PUT does with a sum. */
static inline void FW_CHANNEL(
    const fw_layer *layer, uint32_t channel, const uint8_t *x, const FW_WEIGHT *row, FW_SUM bias, void *y)
{
    const uint32_t each = (uint32_t)layer->channels / layer->groups;
    const uint32_t height = layer->height, width = layer->width, kernel_w = layer->kernel_w;
    const size_t plane = (size_t)height * width, kernel = (size_t)layer->kernel_h * kernel_w;
    const int32_t zero = layer->zero, step_h = layer->dilation_h, step_w = layer->dilation_w;
    uint32_t i, j, k, h, w, top, bottom, left, right, place = channel * layer->out_height * layer->out_width;
    x += channel / ((uint32_t)layer->out_channels / layer->groups) * each * plane;
    for (i = 0; i < layer->out_height; i++) {
        int32_t start_h = (int32_t)(i * layer->stride_h) - layer->pad_top;
        fw_window(start_h, layer->kernel_h, layer->dilation_h, height, &top, &bottom);
        for (j = 0; j < layer->out_width; j++) {
            int32_t start_w = (int32_t)(j * layer->stride_w) - layer->pad_left;
            FW_SUM sum = bias;
            fw_window(start_w, kernel_w, layer->dilation_w, width, &left, &right);
            for (k = 0; k < each; k++) {
                for (h = top; h < bottom; h++) {
                    const uint8_t *from = x + k * plane + (size_t)(start_h + (int32_t)h * step_h) * width;
                    const FW_WEIGHT *weight = row + k * kernel + (size_t)h * kernel_w;
                    for (w = left; w < right; w++)
                        sum += (FW_SUM)weight[w] * ((int32_t)from[start_w + (int32_t)w * step_w] - zero);
                }
            }
            FW_PUT(layer, channel, place++, sum, y);
        }
    }
}
#undef FW_CHANNEL
#undef FW_WEIGHT
#undef FW_SUM
#undef FW_PUT
