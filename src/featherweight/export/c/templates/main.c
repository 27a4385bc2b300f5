/* Reads inputs from standard input, one after another, and prints the class and the scores of each.

   ./model < inputs           float32, little-endian
   ./model --integers < ...   bytes, as fw_quantize makes them */
#include <stdio.h>
#include <string.h>

#include "model.h"

static union {
    uint64_t align;
    unsigned char bytes[FW_ARENA + 8];
} arena;

/* Read one input; 1: done, 0: there is no more, -1: the last one is cut short. */
static int read_input(uint8_t *input, int integers)
{
    unsigned char raw[4];
    size_t i, got, width = integers ? 1 : 4;
    for (i = 0; i < FW_INPUTS; i++) {
        got = fread(raw, 1, width, stdin);
        if (got < width)
            return got == 0 && i == 0 ? 0 : -1;
        if (integers) {
            input[i] = raw[0];
        } else {
            uint32_t word = raw[0] | (uint32_t)raw[1] << 8 | (uint32_t)raw[2] << 16 | (uint32_t)raw[3] << 24;
            float value;
            memcpy(&value, &word, sizeof value);
            input[i] = fw_quantize(value);
        }
    }
    return 1;
}

int main(int argc, char **argv)
{
    static uint8_t input[FW_INPUTS];
    static float scores[FW_OUTPUTS];
    int more, integers = argc > 1 && strcmp(argv[1], "--integers") == 0;
    while ((more = read_input(input, integers)) > 0) {
        size_t i;
        if (!fw_run(input, scores, arena.bytes)) {
            fputs("the weights are damaged\n", stderr);
            return 1;
        }
        printf("%u", (unsigned)fw_class(scores));
        for (i = 0; i < FW_OUTPUTS; i++)
            printf(" %.9g", (double)scores[i]);
        putchar('\n');
    }
    if (more < 0) {
        fprintf(stderr, "an input takes %lu numbers: the last one is cut short\n", (unsigned long)FW_INPUTS);
        return 1;
    }
    return 0;
}
