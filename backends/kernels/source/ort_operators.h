/* The operators of the domain `hostelry`; each is described where it is defined. */
#ifndef HOSTELRY_ORT_OPERATORS_H
#define HOSTELRY_ORT_OPERATORS_H

#include "ort_api.h"

extern const ort::CustomOp quantized_linear, ragged_attention, low_rank_sum;

#endif
