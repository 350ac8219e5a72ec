// float16, for processors without the instruction.
#pragma once

#include <cstdint>
#include <cstring>

namespace hostelry {
namespace {

// Little-endian IEEE 754 binary16; subnormal, infinite and NaN values included.
inline float half_to_float(const uint8_t *p) {
    const uint32_t bits = static_cast<uint32_t>(p[0] | p[1] << 8);
    const uint32_t sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 0x3FF;
    if (exponent == 0) {  // mantissa * 2^-24
        const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    const uint32_t word = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | mantissa << 13;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

}  // namespace
}  // namespace hostelry
