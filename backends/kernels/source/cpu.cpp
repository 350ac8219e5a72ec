// Which levels this CPU and the compiler have. setup.py compiles this file alone and asks it which level to build.
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace {

#if defined(__x86_64__)

struct Registers {
    uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r{};
    __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
    return r;
}

// Which registers the system saves when it switches threads (XCR0); instructions on others are illegal.
uint64_t saved_state() {
    if (!(cpuid(1, 0).c >> 27 & 1)) return 0;
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
}

bool has(const char *level) {
    const auto is = [&](const char *name) { return std::strcmp(level, name) == 0; };
    const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
    const bool fma = one.c >> 12 & 1, f16c = one.c >> 29 & 1, avx2 = seven.b >> 5 & 1;
    if (!(fma && f16c && avx2 && (saved_state() & 0x06) == 0x06)) return false;
    if (is("avx2")) return true;
#if defined(__clang__) || __GNUC__ >= 11
    if (is("avxvnni")) return cpuid(7, 1).a >> 4 & 1;
#endif
    if (!is("avx512vnni")) return false;
    const uint32_t wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    return (seven.b & wanted) == wanted && (seven.c >> 11 & 1) && (saved_state() & 0xE6) == 0xE6;
}

#elif defined(__aarch64__)

bool has(const char *level) {
    if (std::strcmp(level, "neon") != 0) return false;
#if defined(__linux__)
    constexpr unsigned long dot_product = 1ul << 20;  // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & dot_product;
#else
    return true;  // every Mac with an arm64 processor has it
#endif
}

#else

bool has(const char *) { return false; }

#endif

}  // namespace

int32_t hk_cpu_has(const char *level) { return std::strcmp(level, "scalar") == 0 || has(level); }
