/* Whether an installed Neuron SDK has the interface that `kernels/src/neuron/api.rs` is written for. Compiles, or names what differs:
 *
 *   cc -std=c11 -Wall -Werror -fsyntax-only -I /opt/aws/neuron/include tests/fake_nrt/abi.c
 */
#include <nrt/nrt.h>
#include <nrt/nrt_experimental.h>
#include <nrt/nrt_version.h>
#include <stddef.h>

/* Layouts. */
_Static_assert(sizeof(nrt_tensor_info_t) == 296, "nrt_tensor_info_t");
_Static_assert(offsetof(nrt_tensor_info_t, usage) == 256, "usage");
_Static_assert(offsetof(nrt_tensor_info_t, size) == 264, "size");
_Static_assert(offsetof(nrt_tensor_info_t, dtype) == 272, "dtype");
_Static_assert(offsetof(nrt_tensor_info_t, shape) == 280, "shape");
_Static_assert(offsetof(nrt_tensor_info_t, ndim) == 288, "ndim");
_Static_assert(offsetof(nrt_tensor_info_array_t, tensor_array) == 8, "tensor_array");
_Static_assert(sizeof(nrt_version_t) == 224 && offsetof(nrt_version_t, rt_detail) == 32, "nrt_version_t");
_Static_assert(sizeof(NRT_STATUS) == 4 && sizeof(nrt_framework_type_t) == 4, "enumerations are ints");
_Static_assert(sizeof(nrt_tensor_placement_t) == 4 && sizeof(nrt_dtype_t) == 4, "enumerations are ints");

/* Values. */
_Static_assert(NRT_FRAMEWORK_TYPE_NO_FW == 1 && NRT_TENSOR_PLACEMENT_DEVICE == 0, "arguments");
_Static_assert(NRT_TENSOR_USAGE_INPUT == 0 && NRT_TENSOR_USAGE_OUTPUT == 1, "usages");
_Static_assert(NRT_DTYPE_BFLOAT16 == 6 && NRT_DTYPE_FLOAT16 == 7 && NRT_DTYPE_INT32 == 8, "types");
_Static_assert(NRT_DTYPE_FLOAT32 == 10 && NRT_DTYPE_INT64 == 12, "types");
_Static_assert(NRT_SUCCESS == 0 && NRT_RESOURCE == 4 && NRT_TIMEOUT == 5 && NRT_HW_ERROR == 6, "statuses");
_Static_assert(NRT_QUEUE_FULL == 7 && NRT_LOAD_NOT_ENOUGH_NC == 9 && NRT_UNSUPPORTED_NEFF_VERSION == 10, "statuses");
_Static_assert(NRT_EXEC_COMPLETED_WITH_NUM_ERR == 1003 && NRT_EXEC_NC_BUSY == 1005, "statuses");

/* Signatures: a pointer of another type is an error. */
NRT_STATUS (*init)(nrt_framework_type_t, const char *, const char *) = nrt_init;
void (*close_)(void) = nrt_close;
NRT_STATUS (*version)(nrt_version_t *, size_t) = nrt_get_version;
NRT_STATUS (*visible)(uint32_t *) = nrt_get_visible_vnc_count;
NRT_STATUS (*visible_before)(uint32_t *) = nrt_get_visible_nc_count;
NRT_STATUS (*load)(const void *, size_t, int32_t, int32_t, nrt_model_t **) = nrt_load;
NRT_STATUS (*unload)(nrt_model_t *) = nrt_unload;
NRT_STATUS (*infos)(nrt_model_t *, nrt_tensor_info_array_t **) = nrt_get_model_tensor_info;
NRT_STATUS (*free_infos)(nrt_tensor_info_array_t *) = nrt_free_model_tensor_info;
NRT_STATUS (*new_set)(nrt_tensor_set_t **) = nrt_allocate_tensor_set;
void (*free_set)(nrt_tensor_set_t **) = nrt_destroy_tensor_set;
NRT_STATUS (*add)(nrt_tensor_set_t *, const char *, nrt_tensor_t *) = nrt_add_tensor_to_tensor_set;
NRT_STATUS (*allocate)(nrt_tensor_placement_t, int, size_t, const char *, nrt_tensor_t **) = nrt_tensor_allocate;
void (*free_tensor)(nrt_tensor_t **) = nrt_tensor_free;
NRT_STATUS (*write_)(nrt_tensor_t *, const void *, size_t, size_t) = nrt_tensor_write;
NRT_STATUS (*read_)(const nrt_tensor_t *, void *, size_t, size_t) = nrt_tensor_read;
NRT_STATUS (*execute)(nrt_model_t *, const nrt_tensor_set_t *, nrt_tensor_set_t *) = nrt_execute;
