/* Tells ONNX Runtime of the operators: `SessionOptions.register_custom_ops_library` calls RegisterCustomOps. */
#include <cstdio>
#include <initializer_list>

#include "kernels.h"
#include "ort_operators.h"

using namespace ort;

namespace {

/* Every onnxruntime offers version 1, of which an error is made. */
OrtStatus *refuse(const OrtApiBase *base)
{
    char message[200];
    std::snprintf(message, sizeof message,
                  "the kernels need API version %u of onnxruntime, which this one (%s) does not offer: "
                  "pip install --upgrade \"hostelry[onnx]\"",
                  static_cast<unsigned>(api_version), base->GetVersionString());
    const OrtApi *const oldest = base->GetApi(1);
    return oldest == nullptr ? nullptr : Api(oldest)[CreateStatus](fail, message);
}

} // namespace

/* A domain has to outlive the options it is added to, and nobody tells when those go: it stays, a few hundred bytes. */
extern "C" HK_API OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base)
{
    const OrtApi *const table = base->GetApi(api_version);
    if (table == nullptr) return refuse(base);
    const Api api(table);
    OrtCustomOpDomain *domain = nullptr;
    OrtStatus *status = api[CreateCustomOpDomain]("hostelry", &domain);
    for (const CustomOp *op : {&quantized_linear, &ragged_attention, &low_rank_sum}) {
        if (status == nullptr) status = api[CustomOpDomain_Add](domain, op);
    }
    return status != nullptr ? status : api[AddCustomOpDomain](options, domain);
}
