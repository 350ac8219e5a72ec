/* hostelry::LowRankSum, y + B (A x) for the rows that have an adapter: beside linears of other operators.
 *
 *   x         float32 [m, columns]
 *   y         float32 [m, rows], the parts one after the other
 *   lora      int32 [m], adapter slot of a row or -1
 *   adapters  int64 [slots, 3 * linears], see hk_low_rank
 *   sum       float32 [m, rows]
 *
 * Attributes are those of `read_parts`, and columns.
 */
#include "ort_low_rank.h"

#include <cstring>
#include <new>

#include "ort_operators.h"

using namespace ort;

namespace {

enum Input : size_t { input_x, input_y, input_lora, input_adapters, num_inputs };

struct Kernel {
    Api api;
    OrtAllocator *allocator;
    int64_t adapter;
    hk_low_rank parts;
};

OrtStatus *create(const CustomOp *, const OrtApi *table, const OrtKernelInfo *info, void **created)
{
    Kernel kernel = {Api(table), nullptr, -1, {}};
    TRY(kernel.api[KernelInfoGetAttribute_int64](info, "columns", &kernel.parts.columns));
    TRY(read_parts(kernel.api, info, &kernel.adapter, &kernel.parts));
    TRY(kernel.api[KernelInfoGetAllocator](info, default_memory, &kernel.allocator));
    *created = new (std::nothrow) Kernel(kernel);
    if (*created != nullptr) return nullptr;
    kernel.api[ReleaseAllocator](kernel.allocator);
    return kernel.api[CreateStatus](fail, "out of memory");
}

void destroy(void *created)
{
    Kernel *const kernel = static_cast<Kernel *>(created);
    if (kernel != nullptr) kernel->api[ReleaseAllocator](kernel->allocator);
    delete kernel;
}

OrtStatus *matrix_of(const Api &api, const OrtKernelContext *context, Input input, int64_t columns, int64_t *rows,
                     const float **data)
{
    const OrtValue *value = nullptr;
    TRY(api[KernelContext_GetInput](context, input, &value));
    int64_t shape[2] = {0, 0};
    size_t rank = 0;
    TRY(shape_of(api, value, shape, &rank));
    if (rank != 2 || shape[1] != columns) return refuse(api, "x or y has the wrong number of columns");
    *rows = shape[0];
    return data_of(api, value, reinterpret_cast<const void **>(data));
}

void add_deltas(const hk_low_rank &l, float *sum)
{
    for (int64_t i = 0; i < l.active; i++) {
        float *const row = sum + l.order[i] * l.rows;
        for (int64_t j = 0; j < l.rows; j++) row[j] += l.delta[i * l.rows + j];
    }
}

OrtStatus *compute(void *created, OrtKernelContext *context)
{
    const Kernel &kernel = *static_cast<const Kernel *>(created);
    const Api &api = kernel.api;
    hk_low_rank l = kernel.parts;
    int64_t rows_of_y = 0;
    const float *y = nullptr;
    TRY(matrix_of(api, context, input_x, l.columns, &l.m, &l.x));
    TRY(matrix_of(api, context, input_y, l.rows, &rows_of_y, &y));
    if (rows_of_y != l.m) return refuse(api, "x and y have different numbers of rows");
    TRY(read_adapters(api, context, input_lora, kernel.adapter, &l));
    const int64_t shape[2] = {l.m, l.rows};
    OrtValue *output = nullptr;
    const void *data = nullptr;
    TRY(api[KernelContext_GetOutput](context, 0, shape, 2, &output));
    TRY(data_of(api, output, &data));
    float *const sum = static_cast<float *>(const_cast<void *>(data));
    if (sum != y) std::memcpy(sum, y, static_cast<size_t>(l.m * l.rows) * sizeof(float));
    if (!has_adapters(l)) return nullptr;
    Room tables(api, kernel.allocator), sums(api, kernel.allocator);
    TRY(run_low_rank(api, context, &tables, &sums, &l));
    add_deltas(l, sum);
    return nullptr;
}

/* `sum` may be written over `y`. */
size_t may_share(int **inputs, int **outputs)
{
    static int input = input_y, output = 0;
    *inputs = &input;
    *outputs = &output;
    return 1;
}

} // namespace

const CustomOp low_rank_sum = [] {
    CustomOp op = {};
    op.version = api_version;
    op.GetName = [](const CustomOp *) { return "LowRankSum"; };
    op.GetExecutionProviderType = [](const CustomOp *) { return "CPUExecutionProvider"; };
    op.GetInputTypeCount = [](const CustomOp *) -> size_t { return num_inputs; };
    op.GetInputType = [](const CustomOp *, size_t index) {
        return index == input_lora ? type_int32 : index == input_adapters ? type_int64 : type_float;
    };
    op.GetInputCharacteristic = [](const CustomOp *, size_t) { return required; };
    op.GetInputMemoryType = [](const CustomOp *, size_t) { return default_memory; };
    op.GetOutputTypeCount = [](const CustomOp *) -> size_t { return 1; };
    op.GetOutputType = [](const CustomOp *, size_t) { return type_float; };
    op.GetOutputCharacteristic = [](const CustomOp *, size_t) { return required; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    op.KernelDestroy = destroy;
    op.GetMayInplace = may_share;
    op.ReleaseMayInplace = [](int *, int *) {};
    return op;
}();
