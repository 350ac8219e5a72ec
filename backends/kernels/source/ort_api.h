/* The part of ONNX Runtime's C API that the operators need, declared by hand.
 *
 * OrtApi is a table of functions that only ever grows at its end, so a function is known by its position. Positions,
 * signatures and the API version that introduced each are those of the public onnxruntime_c_api.h (MIT). API version n
 * came with onnxruntime 1.n, and newer ones still offer it.
 */
#ifndef HOSTELRY_ORT_API_H
#define HOSTELRY_ORT_API_H

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtAllocator;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtApi;

struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version); /* NULL where this version is not offered */
    const char *(*GetVersionString)();
};

namespace ort {

constexpr uint32_t api_version = 18;

enum Code : int { fail = 1, invalid_argument = 2 };
enum ElementType : int { type_float = 1, type_uint8 = 2, type_int32 = 6, type_int64 = 7 };
enum Characteristic : int { required = 0, optional = 1 };
enum MemoryType : int { default_memory = 0 };

template <typename Signature, size_t position, uint32_t since>
struct Function {
    static_assert(since <= api_version, "raise api_version");
};

/* api[CreateStatus](code, message) calls the function at its position. */
class Api {
public:
    explicit Api(const OrtApi *table) : table_(reinterpret_cast<void (*const *)()>(table)) {}

    template <typename Signature, size_t position, uint32_t since>
    Signature *operator[](Function<Signature, position, since>) const
    {
        return reinterpret_cast<Signature *>(table_[position]);
    }

private:
    void (*const *table_)();
};

constexpr Function<OrtStatus *(Code, const char *), 0, 1> CreateStatus;
constexpr Function<OrtStatus *(const char *, OrtCustomOpDomain **), 26, 1> CreateCustomOpDomain;
constexpr Function<OrtStatus *(OrtCustomOpDomain *, const struct CustomOp *), 27, 1> CustomOpDomain_Add;
constexpr Function<OrtStatus *(OrtSessionOptions *, OrtCustomOpDomain *), 28, 1> AddCustomOpDomain;
constexpr Function<OrtStatus *(OrtValue *, void **), 51, 1> GetTensorMutableData;
constexpr Function<OrtStatus *(const OrtTensorTypeAndShapeInfo *, size_t *), 61, 1> GetDimensionsCount;
constexpr Function<OrtStatus *(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t), 62, 1> GetDimensions;
constexpr Function<OrtStatus *(const OrtValue *, OrtTensorTypeAndShapeInfo **), 65, 1> GetTensorTypeAndShape;
constexpr Function<OrtStatus *(OrtAllocator *, size_t, void **), 75, 1> AllocatorAlloc;
constexpr Function<OrtStatus *(OrtAllocator *, void *), 76, 1> AllocatorFree;
constexpr Function<OrtStatus *(const OrtKernelInfo *, const char *, float *), 85, 1> KernelInfoGetAttribute_float;
constexpr Function<OrtStatus *(const OrtKernelInfo *, const char *, int64_t *), 86, 1> KernelInfoGetAttribute_int64;
constexpr Function<OrtStatus *(const OrtKernelContext *, size_t *), 88, 1> KernelContext_GetInputCount;
constexpr Function<OrtStatus *(const OrtKernelContext *, size_t, const OrtValue **), 90, 1> KernelContext_GetInput;
constexpr Function<OrtStatus *(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **), 91, 1>
    KernelContext_GetOutput;
constexpr Function<void(OrtTensorTypeAndShapeInfo *), 99, 1> ReleaseTensorTypeAndShapeInfo;
constexpr Function<void(OrtAllocator *), 132, 5> ReleaseAllocator;
constexpr Function<OrtStatus *(const OrtKernelInfo *, size_t, int *, const OrtValue **), 249, 15>
    KernelInfoGetConstantInput_tensor;
constexpr Function<OrtStatus *(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *), 274, 17>
    KernelContext_ParallelFor;
constexpr Function<OrtStatus *(const OrtKernelInfo *, MemoryType, OrtAllocator **), 278, 18> KernelInfoGetAllocator;

/* OrtCustomOp, as of API version 18. Members that are null are not supported by an operator. */
struct CustomOp {
    uint32_t version;
    void *(*CreateKernel)(const CustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const CustomOp *);
    const char *(*GetExecutionProviderType)(const CustomOp *);
    ElementType (*GetInputType)(const CustomOp *, size_t index);
    size_t (*GetInputTypeCount)(const CustomOp *);
    ElementType (*GetOutputType)(const CustomOp *, size_t index);
    size_t (*GetOutputTypeCount)(const CustomOp *);
    void (*KernelCompute)(void *kernel, OrtKernelContext *);
    void (*KernelDestroy)(void *kernel);
    /* 8 */
    Characteristic (*GetInputCharacteristic)(const CustomOp *, size_t index);
    Characteristic (*GetOutputCharacteristic)(const CustomOp *, size_t index);
    /* 13 */
    MemoryType (*GetInputMemoryType)(const CustomOp *, size_t index);
    /* 14 */
    int (*GetVariadicInputMinArity)(const CustomOp *);
    int (*GetVariadicInputHomogeneity)(const CustomOp *);
    int (*GetVariadicOutputMinArity)(const CustomOp *);
    int (*GetVariadicOutputHomogeneity)(const CustomOp *);
    /* 16 */
    OrtStatus *(*CreateKernelV2)(const CustomOp *, const OrtApi *, const OrtKernelInfo *, void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtKernelContext *);
    /* 17 */
    OrtStatus *(*InferOutputShapeFn)(const CustomOp *, struct OrtShapeInferContext *);
    int (*GetStartVersion)(const CustomOp *);
    int (*GetEndVersion)(const CustomOp *);
    /* 18 */
    size_t (*GetMayInplace)(int **inputs, int **outputs);
    void (*ReleaseMayInplace)(int *inputs, int *outputs);
    size_t (*GetAliasMap)(int **inputs, int **outputs);
    void (*ReleaseAliasMap)(int *inputs, int *outputs);
};

} // namespace ort

#endif
