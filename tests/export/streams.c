/* Decodes many streams: each as numbers (little-endian, 32 bits) and bytes; answers with a verdict and the symbols. */
#include <stdio.h>
#include <stdlib.h>

#define FW_HAS_FIXED
#define FW_HAS_RANS
#define FW_HAS_HUFFMAN
#define FW_HAS_CABAC
#define FW_HAS_SPARSE
#include "base.h"
#include "bits.h"
#include "fixed.h"
#include "rans.h"
#include "huffman.h"
#include "cabac.h"
#include "stream.h"

static int number(uint32_t *value)
{
    unsigned char raw[4];
    if (fread(raw, 1, 4, stdin) < 4)
        return 0;
    *value = raw[0] | (uint32_t)raw[1] << 8 | (uint32_t)raw[2] << 16 | (uint32_t)raw[3] << 24;
    return 1;
}

static void answer(uint32_t value)
{
    int i;
    for (i = 0; i < 4; i++)
        putchar((int)(value >> 8 * i & 255u));
}

int main(void)
{
    uint32_t f[10], i;
    while (number(&f[0])) { /* size, count, alphabet, zero, row, kind, values, where, bits, bytes of work */
        uint8_t *payload;
        uint32_t *symbols;
        void *work;
        fw_code code;
        fw_stream stream;
        int whole;
        for (i = 1; i < 10; i++)
            if (!number(&f[i]))
                return 1;
        payload = malloc(f[0]); /* of exactly their sizes, so that the sanitizer sees the first byte beyond */
        symbols = malloc(4 * (size_t)f[1]);
        work = malloc(f[9]);
        if (fread(payload, 1, f[0], stdin) < f[0])
            return 1;
        code.payload = payload;
        code.size = f[0];
        code.count = f[1];
        code.alphabet = f[2];
        code.zero = f[3];
        code.row = f[4];
        code.kind = (uint8_t)f[5];
        code.values = (uint8_t)f[6];
        code.where = (uint8_t)f[7];
        code.bits = (uint8_t)f[8];
        whole = fw_open(&stream, &code, work, f[9]);
        for (i = 0; whole && i < f[1]; i++)
            symbols[i] = fw_next(&stream);
        whole = whole && fw_close(&stream);
        answer((uint32_t)whole);
        for (i = 0; whole && i < f[1]; i++)
            answer(symbols[i]);
        free(payload);
        free(symbols);
        free(work);
    }
    return 0;
}
