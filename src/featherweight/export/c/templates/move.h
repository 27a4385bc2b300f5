/* Part of an activation, every so many places of it, or more than it with zeros around. */

typedef struct fw_move {
    uint16_t channels, height, width, out_channels, out_height, out_width;
    int32_t start_c, start_h, start_w; /* where the first place written comes from; below 0: from the zeros */
    uint16_t step_c, step_h, step_w;
    uint8_t zero;
} fw_move;

static inline void fw_move_bytes(const fw_move *move, const uint8_t *x, uint8_t *y)
{
    int32_t c, h, w, i, j, k;
    for (i = 0, c = move->start_c; i < move->out_channels; i++, c += move->step_c) {
        for (j = 0, h = move->start_h; j < move->out_height; j++, h += move->step_h) {
            int inside = c >= 0 && c < move->channels && h >= 0 && h < move->height;
            for (k = 0, w = move->start_w; k < move->out_width; k++, w += move->step_w) {
                if (inside && w >= 0 && w < move->width)
                    *y++ = x[((size_t)c * move->height + (size_t)h) * move->width + (size_t)w];
                else
                    *y++ = move->zero;
            }
        }
    }
}
