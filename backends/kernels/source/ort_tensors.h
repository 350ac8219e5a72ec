/* Reading tensors in an operator of ours, and what the operators share. */
#ifndef HOSTELRY_ORT_TENSORS_H
#define HOSTELRY_ORT_TENSORS_H

#include "ort_api.h"

/* The rest of the enclosing function is for the case that the call succeeded. */
#define TRY(call)                             \
    do {                                      \
        OrtStatus *const status_ = (call);    \
        if (status_ != nullptr) return status_; \
    } while (0)

namespace ort {
namespace {

constexpr uintptr_t alignment = 64;

inline bool is_aligned(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % alignment == 0; }

inline size_t num_shares(int64_t total, int64_t each) { return static_cast<size_t>((total + each - 1) / each); }

inline OrtStatus *refuse(const Api &api, const char *message) { return api[CreateStatus](invalid_argument, message); }

inline OrtStatus *data_of(const Api &api, const OrtValue *value, const void **data)
{
    return api[GetTensorMutableData](const_cast<OrtValue *>(value), const_cast<void **>(data));
}

/* Fails for a tensor of more than two dimensions. */
inline OrtStatus *shape_of(const Api &api, const OrtValue *value, int64_t (&shape)[2], size_t *rank)
{
    OrtTensorTypeAndShapeInfo *info = nullptr;
    TRY(api[GetTensorTypeAndShape](value, &info));
    OrtStatus *status = api[GetDimensionsCount](info, rank);
    if (status == nullptr) status = *rank > 2 ? refuse(api, "expected at most two dimensions") : nullptr;
    if (status == nullptr) status = api[GetDimensions](info, shape, *rank);
    api[ReleaseTensorTypeAndShapeInfo](info);
    return status;
}

} // namespace
} // namespace ort

#endif
