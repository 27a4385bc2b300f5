/* Layers whose weights are integers of at most 8 bits; sums are int32, which the maker of this file checked. */

static inline void fw_put_int8(const fw_layer *layer, uint32_t channel, uint32_t place, int32_t sum, void *y)
{
    uint32_t scale = layer->scale[layer->scales ? channel : 0];
    if (layer->floats)
        ((float *)y)[place] = (float)sum * fw_float(scale);
    else
        ((uint8_t *)y)[place] = fw_layer_byte(layer, fw_requantize(sum, scale));
}

#define FW_CHANNEL fw_channel_int8
#define FW_WEIGHT int8_t
#define FW_SUM int32_t
#define FW_PUT fw_put_int8
#include "channel.h"

/* 0: the weights are damaged. `row`: one output channel's weights; `work`: what their decoder needs. */
static inline int fw_layer_int8(
    const fw_layer *layer, const uint8_t *x, void *y, int8_t *row, void *work, uint32_t size)
{
    fw_stream stream;
    uint32_t channel, count = layer->code->row;
    if (!fw_open(&stream, layer->code, work, size))
        return 0;
    for (channel = 0; channel < layer->out_channels; channel++) {
        fw_row_int8(&stream, row, count, layer->bits);
        fw_channel_int8(layer, channel, x, row, layer->bias ? layer->bias[channel] : 0, y);
    }
    return fw_close(&stream);
}
