/* Convolutions and linear layers. Activations are bytes, channel by channel, each row by row; `zero` of what is
   read stands for 0, so that padding adds nothing. For each output channel its weights are decoded into `row`,
   then all its outputs are computed. A linear layer is a convolution over one place. */

typedef struct fw_layer {
    const fw_code *code;
    uint16_t channels, height, width;             /* of what is read */
    uint16_t out_channels, out_height, out_width; /* of what is written */
    uint16_t groups, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    uint8_t zero;                                 /* of what is read */
    uint8_t out_zero, least, most;                /* of what is written: what stands for 0, and the range */
    uint8_t bits;                                 /* of integer weights */
    uint8_t shift;                                /* of a codebook: its entries count steps of 2^-shift */
    uint8_t scales;                               /* 1: a scale for each output channel, 0: one for all */
    uint8_t floats;                               /* 1: nothing rounds what is written: float32 */
    const uint32_t *scale;                        /* of integer weights: float32, as bits */
    const int32_t *bias, *codebook;               /* bias of integer weights, or NULL */
    const int64_t *wide_bias;                     /* bias of weights from a codebook, or NULL */
} fw_layer;

/* How much of a window lies inside: places first to last - 1 of `kernel`, whose place 0 is at `start`. */
static inline void fw_window(
    int32_t start, uint32_t kernel, uint32_t dilation, uint32_t length, uint32_t *first, uint32_t *last)
{
    int32_t step = (int32_t)dilation, from = start < 0 ? (-start + step - 1) / step : 0;
    int32_t to = (int32_t)length > start ? ((int32_t)length - start + step - 1) / step : 0;
    *last = to < (int32_t)kernel ? (uint32_t)to : kernel;
    *first = from < (int32_t)*last ? (uint32_t)from : *last;
}

static inline uint8_t fw_layer_byte(const fw_layer *layer, int32_t steps)
{
    return (uint8_t)fw_clamp(steps + layer->out_zero, layer->least, layer->most);
}
