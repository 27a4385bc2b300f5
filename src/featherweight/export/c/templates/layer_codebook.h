/* Layers whose weights share the values of a codebook, counted in steps of 2^-shift of the output's step: sums,
   int64, are exact, and a shift with rounding, half to even, ends them. */

static inline void fw_put_codebook(const fw_layer *layer, uint32_t channel, uint32_t place, int64_t sum, void *y)
{
    (void)channel;
    if (layer->floats)
        ((float *)y)[place] = (float)sum / (float)((uint64_t)1 << layer->shift);
    else
        ((uint8_t *)y)[place] = fw_layer_byte(layer, fw_round(sum, layer->shift));
}

#define FW_CHANNEL fw_channel_codebook
#define FW_WEIGHT int32_t
#define FW_SUM int64_t
#define FW_PUT fw_put_codebook
#include "channel.h"

/* 0: the weights are damaged. `row`: one output channel's weights; `work`: what their decoder needs. */
static inline int fw_layer_codebook(
    const fw_layer *layer, const uint8_t *x, void *y, int32_t *row, void *work, uint32_t size)
{
    fw_stream stream;
    uint32_t channel, count = layer->code->row;
    if (!fw_open(&stream, layer->code, work, size))
        return 0;
    for (channel = 0; channel < layer->out_channels; channel++) {
        fw_row_codebook(&stream, row, count, layer->codebook);
        fw_channel_codebook(layer, channel, x, row, layer->wide_bias ? layer->wide_bias[channel] : 0, y);
    }
    return fw_close(&stream);
}
