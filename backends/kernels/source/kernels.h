/* Quantized linears and attention on the CPU: the C interface, version 5.
 *
 * Weights are repacked once, from GGUF blocks to tiles of 16 rows (`hk_pack`). A product takes two passes, both split
 * by the caller over threads of its own: rows of activations become int8 (`hk_activate`), then ranges of tiles are
 * multiplied (`hk_multiply`). Columns that share a scale in the weights share one in the activations, but at most 32.
 * Nothing here allocates, starts a thread or keeps state, apart from the level of instructions, which is chosen once.
 */
#ifndef HOSTELRY_KERNELS_H
#define HOSTELRY_KERNELS_H

#include <stdint.h>

#if defined(_WIN32)
#define HK_API __declspec(dllexport)
#else
#define HK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define HK_ABI_VERSION 5

/* Numbers of `enum ggml_type`, as GGUF files have them. */
enum hk_format {
    HK_Q4_0 = 2, HK_Q4_1 = 3, HK_Q5_0 = 6, HK_Q5_1 = 7, HK_Q8_0 = 8, HK_Q8_1 = 9,
    HK_Q2_K = 10, HK_Q3_K = 11, HK_Q4_K = 12, HK_Q5_K = 13, HK_Q6_K = 14, HK_Q8_K = 15
};

enum hk_activation { HK_NONE = 0, HK_SWIGLU = 1, HK_GEGLU_TANH = 2 };

/* A matrix of `rows` x `columns` in tiles. */
typedef struct hk_weights {
    int32_t format;
    int64_t rows;
    int64_t columns;
    const uint8_t *packed; /* hk_packed_bytes, aligned to 64 bytes */
} hk_weights;

/* What happens to a product before it is stored; all zeros is nothing.
 *
 * With a gated `activation`, tiles alternate: 16 rows of the gate, 16 rows of what it gates. y then has rows / 2
 * columns, and `rows` is a multiple of 32. */
typedef struct hk_epilogue {
    const float *bias;     /* [rows], before the activation; in the order of the tiles */
    const float *residual; /* [m, columns of y], added last; may be y */
    int32_t activation;
    const float *delta;      /* of hk_low_rank, added first */
    const int32_t *delta_of; /* [m], row of delta, or -1 */
} hk_epilogue;

HK_API int32_t hk_abi_version(void);

/* The level in use: "scalar", "avx2", "avxvnni", "avx512vnni", "neon". Chosen at first use: the best that this CPU has,
 * or the one that the environment variable HOSTELRY_KERNEL_LEVEL names, if the CPU has it. */
HK_API const char *hk_level(void);
/* 0, or -1 (and nothing changes) for a level that is unknown or that this CPU or build has not. */
HK_API int32_t hk_set_level(const char *name);
/* 1 if this CPU and the compiler have the level, 0 if not. A build for one machine has code for that machine's only. */
HK_API int32_t hk_cpu_has(const char *level);

/* Bytes of a packed matrix, or -1 for what is no such matrix: unknown format, partial blocks, sizes that overflow. */
HK_API int64_t hk_packed_bytes(int32_t format, int64_t rows, int64_t columns);
/* Repack GGUF blocks of whole rows, without loss. 0, or -1 as above. */
HK_API int32_t hk_pack(int32_t format, int64_t rows, int64_t columns, const uint8_t *blocks, uint8_t *packed);

/* Tiles of a matrix; the unit in which products are split (of pairs of tiles, with a gated activation). */
HK_API int64_t hk_num_tiles(int64_t rows);

/* Bytes of m rows activated for weights of `format`; to be aligned to 64 bytes. */
HK_API int64_t hk_scratch_bytes(int32_t format, int64_t m, int64_t columns);
/* Rows begin to end of x, float32 [m, columns]. Values that are not finite give outputs that are not. */
HK_API void hk_activate(int32_t format, const float *x, int64_t m, int64_t columns, void *scratch, int64_t begin,
                        int64_t end);
/* Tiles begin to end of y = x W^T: float32 [m, ldy]. Even bounds with a gated activation. */
HK_API void hk_multiply(const hk_weights *weights, const void *scratch, int64_t m, int64_t begin, int64_t end,
                        float *y, int64_t ldy, const hk_epilogue *epilogue);

/* What adapters add to a product of `parts` matrices side by side: B (A x) for each row that has one.
 *
 * `table` has for each slot, `table_stride` apart, and each part three numbers: addresses of A, float32 [rank, columns],
 * and of B transposed, float32 [rank, rows of the part], and the rank; 0 is none. hk_group_rows counts what is to
 * be done, so that the caller can allocate: shrunk [active, parts, max_rank], delta [active, rows]. Then come all units of
 * hk_shrink, and after them those of hk_expand, split as the caller likes. */
typedef struct hk_low_rank {
    int64_t m, columns, rows, parts;
    int64_t part_rows[3];
    int64_t slots, table_stride;
    int32_t is_gated; /* two parts in turns of 16 rows */
    const float *x;       /* [m, columns] */
    const int32_t *lora;  /* [m], a slot or -1 */
    const int64_t *table; /* [slots, table_stride], at the first part */
    int32_t *order, *delta_of; /* [m] each, filled by hk_group_rows */
    int32_t *group_begin;      /* [slots + 1], filled too */
    int64_t groups, active, max_rank;
    float *shrunk, *delta;
} hk_low_rank;

HK_API void hk_group_rows(hk_low_rank *low_rank);
HK_API int64_t hk_shrink_units(const hk_low_rank *low_rank);
HK_API int64_t hk_expand_units(const hk_low_rank *low_rank);
HK_API void hk_shrink(const hk_low_rank *low_rank, int64_t begin, int64_t end);
HK_API void hk_expand(const hk_low_rank *low_rank, int64_t begin, int64_t end);

/* Types of the elements of keys and values. int8 has a scale for each head of a token. */
enum hk_kv_type { HK_KV_F32 = 0, HK_KV_F16 = 1, HK_KV_INT8 = 2 };

/* Causal attention of a ragged step over blocks of 16 tokens, in place. Sequence s has the new tokens q_start[s] to
 * q_start[s + 1] at its end, kv_len[s] tokens with them, and its blocks in blocks[s]; two sequences write no block both.
 *
 * head_dim is a multiple of 16 and at most 512, heads a multiple of kv_heads. Nothing is checked here. */
typedef struct hk_attention {
    int64_t heads, kv_heads, head_dim, window; /* window: most keys a token sees, itself included; 0 is all */
    int64_t tokens, sequences, blocks_each, num_blocks;
    int32_t kv_type;
    float scale, softcap; /* softcap: cap * tanh(score / cap); 0 is none */
    const float *qkv;     /* [tokens, (heads + 2 kv_heads) * head_dim] */
    const float *cosine, *sine; /* [positions, head_dim / 2] */
    const int32_t *q_start; /* [sequences + 1] */
    const int32_t *kv_len;  /* [sequences] */
    const int32_t *blocks;  /* [sequences, blocks_each] */
    uint8_t *kv;            /* hk_kv_bytes, aligned to 64 bytes: keys of all blocks, then their values */
    float *queries;         /* scratch, [tokens, heads, head_dim] */
    float *out;             /* [tokens, heads * head_dim] */
} hk_attention;

/* Bytes of one layer's keys and values. */
HK_API int64_t hk_kv_bytes(int32_t kv_type, int64_t kv_heads, int64_t head_dim, int64_t num_blocks);
/* First: tokens begin to end get their keys and values into the blocks, and their queries into the scratch. */
HK_API void hk_place(const hk_attention *attention, int64_t begin, int64_t end);
/* Then: tasks begin to end, of hk_num_tasks. */
HK_API int64_t hk_num_tasks(const hk_attention *attention);
HK_API void hk_attend(const hk_attention *attention, int64_t begin, int64_t end);

/* Dot products in registers, as fast as they go: the ceiling of all products. Returns how many multiplications and
 * additions were made. */
HK_API int64_t hk_peak(int64_t rounds);

#ifdef __cplusplus
}
#endif
#endif
