// Compiles what follows for a set of instructions, whatever the flags of the build. Whoever runs it checks the CPU first.
//
// Everything that follows has to be in an unnamed namespace: an inline function that the linker may share with another
// file would bring the instructions there.
#pragma once

#define HOSTELRY_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define HOSTELRY_TARGET(names) \
    HOSTELRY_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define HOSTELRY_TARGET_END HOSTELRY_PRAGMA(clang attribute pop)
#else
#define HOSTELRY_TARGET(names) HOSTELRY_PRAGMA(GCC push_options) HOSTELRY_PRAGMA(GCC target(names))
#define HOSTELRY_TARGET_END HOSTELRY_PRAGMA(GCC pop_options)
#endif
