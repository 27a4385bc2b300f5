/* Pooling: the greatest, or the average, of each window. */

typedef struct fw_pool {
    uint16_t channels, height, width, out_height, out_width;
    uint16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    uint8_t zero, out_zero, least, most; /* of an average */
    uint8_t shift;                       /* of an average: its scale is multiplier / 2^shift */
    int32_t multiplier;
} fw_pool;
