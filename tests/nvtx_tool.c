// The smallest NVTX tool: prints each range of each domain to stdout, indented. NVTX_INJECTION64_PATH names it.

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <string.h>

static int depth;

static nvtxDomainHandle_t create(const char* name) { return (nvtxDomainHandle_t)strdup(name); }

static nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const char* text) {
    return (nvtxStringHandle_t)strdup(text);
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
    const int registered = event->messageType == NVTX_MESSAGE_TYPE_REGISTERED;
    const char* text = registered ? (const char*)event->message.registered : event->message.ascii;
    printf("%*s%s@%s\n", depth++, "", (const char*)domain, text);
    return depth;
}

static int pop(nvtxDomainHandle_t domain) {
    fflush(stdout);
    return --depth;
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
    const NvtxExportTableCallbacks* callbacks = (const NvtxExportTableCallbacks*)get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table;
    unsigned int size;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) return 0;
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)register_string;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
    return 1;
}
