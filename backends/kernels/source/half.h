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

// The nearest, halves to even; beyond 65504 infinity. No branches, so that loops of it vectorize.
inline uint16_t float_to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    const uint32_t normal = (bits - (112u << 23) + 0xFFF + (bits >> 13 & 1)) >> 13;
    float size;
    std::memcpy(&size, &bits, 4);
    size += 0.5f;  // what is subnormal as a half lies in the lowest bits now, rounded
    uint32_t small;
    std::memcpy(&small, &size, 4);
    small -= 126u << 23;
    const uint32_t special = bits > 0x7F800000 ? 0x7E00u : 0x7C00u;
    const uint32_t finite = bits < 113u << 23 ? small : normal;
    return static_cast<uint16_t>(sign | (bits < 143u << 23 ? finite : special));
}

}  // namespace
}  // namespace hostelry
