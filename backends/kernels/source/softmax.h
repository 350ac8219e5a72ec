// Softmax over chunks: each brings its weights, and what the earlier ones are worth beside them. Plain loops.
#pragma once

#include "epilogue.h"

namespace hostelry {
namespace {

constexpr float kLowest = -3.0e38f;

// Which scores of a chunk count: those from `begin` to `end`, of `width`, a multiple of 16. Both may lie outside.
struct Seen {
    int64_t begin, end, width;
};

inline void fill_unseen(float *scores, const Seen &seen, float value) {
    for (int64_t i = 0; i < seen.begin && i < seen.width; i++) scores[i] = value;
    for (int64_t i = seen.end > 0 ? seen.end : 0; i < seen.width; i++) scores[i] = value;
}

// cap * tanh(x / cap), tanh(z) = 1 - 2 / (1 + e^(2 z))
inline void cap_scores(float *scores, int64_t width, float cap) {
    for (int64_t i = 0; i < width; i++) {
        scores[i] = cap * (1.0f - 2.0f / (1.0f + exponential(2.0f * (scores[i] / cap))));
    }
}

inline float largest_of(const float *scores, int64_t width) {
    float tops[16];
    for (float &top : tops) top = kLowest;
    for (int64_t i = 0; i < width; i += 16) {
        for (int64_t lane = 0; lane < 16; lane++) {  // a NaN is not larger; it shows in the sum
            tops[lane] = scores[i + lane] > tops[lane] ? scores[i + lane] : tops[lane];
        }
    }
    float largest = tops[0];
    for (float top : tops) largest = top > largest ? top : largest;
    return largest;
}

inline float sum_of(const float *values, int64_t width) {
    float sums[16] = {};
    for (int64_t i = 0; i < width; i += 16) {
        for (int64_t lane = 0; lane < 16; lane++) sums[lane] += values[i + lane];
    }
    float sum = 0.0f;
    for (float part : sums) sum += part;
    return sum;
}

// Scores become weights e^(score - top). `top` is the largest score so far, `sum` that of all weights so far; both are
// brought up to date. Returns what earlier weights have to be multiplied by.
inline float weigh(float *scores, const Seen &seen, float cap, float *top, float *sum) {
    if (cap > 0.0f) cap_scores(scores, seen.width, cap);
    fill_unseen(scores, seen, kLowest);
    const float here = largest_of(scores, seen.width), largest = here > *top ? here : *top;
    for (int64_t i = 0; i < seen.width; i++) scores[i] = exponential(scores[i] - largest);
    fill_unseen(scores, seen, 0.0f);
    const float factor = exponential(*top - largest);
    *top = largest;
    *sum = *sum * factor + sum_of(scores, seen.width);
    return factor;
}

}  // namespace
}  // namespace hostelry
