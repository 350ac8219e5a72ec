/* The operator `QuantizedLinear` of the domain `hostelry`, see ort_linear.cpp. */
#ifndef HOSTELRY_ORT_LINEAR_H
#define HOSTELRY_ORT_LINEAR_H

#include "ort_api.h"

extern const ort::CustomOp quantized_linear;

#endif
