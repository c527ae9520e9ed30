/* A stand-in for the AWS Neuron runtime, for tests only: the interface of libnrt.so.1 over ordinary memory.
 *
 * It proves that its caller keeps to the interface: handles, names, sizes, cores, order of release. It proves nothing about
 * Neuron devices or compiled models: what it computes is a toy,
 *
 *   row b, value l = sum over k with mask[b][k] != 0 of (ids[b][k] * (l + 1) + 7 * k + 13 * types[b][k]) % 97, + weights
 *
 * where `weights` is the sum of all values of the f32 inputs. Rows that are swapped, tokens at a wrong place, a mask that is
 * not heeded or weights of another model change it; padding does not. All numbers are whole and small, so f32 holds them.
 *
 * A "NEFF" is a header of 1024 bytes as documented, then a tar archive whose first file has lines `in|out NAME DTYPE DIM...`. The
 * first integer input is ids, the second the mask, the third the segments. If lines `row HASH VALUE...` follow, the toy is not computed,
 * but the row is given that belongs to the hash of the ids and segments under the mask; a row that nobody recorded is an invalid input,
 * one of nothing but padding is zeros. `weights HASH` then is what all inputs that are no integers must be.
 *
 * Compiled with OLD it is a version that counts cores by the older name, and does not tell of tensors.
 *
 * What it is told, in the file beside it with `.conf` behind its name, one a line:
 *   cores N                     cores there are (2)
 *   swap 1                      the rows of each execution are swapped: a wrong runtime, which tests must notice
 *   meet N                      the first N executions wait for each other; those that wait in vain time out
 *   CALL STATUS SKIP COUNT      after SKIP good ones, COUNT calls (0: all) of this function give STATUS
 * What it tells, when it is closed, in the file with `.live` behind its name: objects that are left, and what was done wrong. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, TIMEOUT = 5, NEFF_VERSION = 10, UNINITIALIZED = 13, CLOSED = 14, BAD_INPUT = 1002, CORE_BUSY = 1005 };
enum { MOST = 64, MOST_CORES = 16, MOST_ROWS = 256 };
enum { I32 = 8, F32 = 10 };

typedef struct { char name[256]; int usage; size_t size; int dtype; uint32_t *shape; uint32_t ndim; } info_t;
typedef struct { uint64_t count; info_t infos[]; } infos_t;
typedef struct { uint64_t numbers[4]; char detail[128], git_hash[64]; } version_t;
typedef struct { void *bytes; size_t size; int core; atomic_int sets; } tensor_t;
typedef struct { char names[MOST][256]; tensor_t *tensors[MOST]; int count; } set_t;
typedef struct { uint64_t hash; float *values; } row_t;
typedef struct { info_t infos[MOST]; row_t rows[MOST_ROWS]; uint64_t weights; int count, recorded, core; } model_t;
typedef struct { char call[40]; int status, skip, count; atomic_int seen; } fault_t;

_Static_assert(sizeof(info_t) == 296 && offsetof(info_t, shape) == 280 && offsetof(infos_t, infos) == 8, "documented layout");

static int state = UNINITIALIZED, cores = 2, swap, meet, faults;
static fault_t fault[MOST];
static char self[4096];
static atomic_int models, tensors, sets, misuse, executions, tensors_made, on_core[MOST_CORES], inside;
static atomic_flag busy[MOST_CORES];

static void configure(void) {
    Dl_info here;
    char path[5000], line[200];
    if (!dladdr((void *)configure, &here)) return;
    snprintf(self, sizeof self, "%s", here.dli_fname);
    snprintf(path, sizeof path, "%s.conf", self);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        fault_t *f = &fault[faults];
        if (sscanf(line, "cores %d", &cores) == 1 || sscanf(line, "swap %d", &swap) == 1) continue;
        if (sscanf(line, "meet %d", &meet) == 1) continue;
        if (sscanf(line, "%39s %d %d %d", f->call, &f->status, &f->skip, &f->count) == 4) faults++;
    }
    if (file) fclose(file);
}

/* The status that this call is to give. */
static int told(const char *call) {
    if (state != OK) return state;
    for (int i = 0; i < faults; i++) {
        fault_t *f = &fault[i];
        if (strcmp(f->call, call)) continue;
        int seen = atomic_fetch_add(&f->seen, 1);
        if (seen >= f->skip && (!f->count || seen < f->skip + f->count)) return f->status;
    }
    return OK;
}
#define TOLD() do { int status = told(__func__); if (status) return status; } while (0)

int nrt_init(int framework, const char *version, const char *fal) {
    if (state == OK || framework != 1 || !version || !fal) return INVALID;
    configure();
    state = OK;
    int status = told(__func__);
    if (status) state = UNINITIALIZED;
    return status;
}

#ifndef OLD
int nrt_get_version(version_t *out, size_t size) {
    if (size < sizeof *out) return INVALID;
    *out = (version_t){{2, 99, 1, 0}, "a stand-in", ""};
    return OK;
}
#endif

void nrt_close(void) {
    char path[5000];
    snprintf(path, sizeof path, "%s.live", self);
    state = CLOSED;
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "models=%d tensors=%d sets=%d misuse=%d executions=%d tensors_made=%d", models, tensors, sets, misuse,
            executions, tensors_made);
    for (int i = 0; i < cores; i++) fprintf(file, " core%d=%d", i, on_core[i]);
    fprintf(file, "\n");
    fclose(file);
}

#ifdef OLD
int nrt_get_visible_nc_count(uint32_t *count) { TOLD(); *count = cores; return OK; }
#else
int nrt_get_visible_vnc_count(uint32_t *count) { TOLD(); *count = cores; return OK; }
#endif

/* FNV-1a. */
static uint64_t hashed(uint64_t hash, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
    return hash;
}
static const uint64_t NOTHING = 0xcbf29ce484222325;

/* Takes in a line of what was recorded, behind those of the tensors; whether it is one. */
static int record(model_t *m, char *line) {
    if (!strncmp(line, "weights ", 8)) return m->weights = strtoull(line + 8, 0, 16), 1;
    if (strncmp(line, "row ", 4)) return 0;
    if (m->recorded == MOST_ROWS) return 1;
    row_t *row = &m->rows[m->recorded++];
    char *rest;
    row->hash = strtoull(line + 4, &rest, 16);
    uint32_t width = m->infos[m->count - 1].shape[1];
    row->values = calloc(width, sizeof *row->values);
    for (uint32_t l = 0; l < width; l++) row->values[l] = strtof(rest, &rest);
    return 1;
}

int nrt_load(const void *neff, size_t size, int32_t core, int32_t core_count, model_t **out) {
    TOLD();
    uint64_t header, data;
    if (core_count != -1 || core < 0 || core >= cores || size < 1024) return INVALID;
    memcpy(&header, (const char *)neff + 8, 8);
    memcpy(&data, (const char *)neff + 16, 8);
    if (header != 1024) return NEFF_VERSION;
    if (header + data != size || data < 512 || memcmp((const char *)neff + 1024 + 257, "ustar", 5)) return INVALID;
    model_t *m = calloc(1, sizeof *m);
    char *text = strndup((const char *)neff + 1536, data - 512), *rest;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(0, "\n", &rest)) {
        info_t *i = &m->infos[m->count];
        char way[8];
        int used = 0, step;
        if (record(m, line)) continue;
        if (m->count == MOST || sscanf(line, "%7s %255s %d%n", way, i->name, &i->dtype, &used) != 3) continue;
        i->usage = !strcmp(way, "out");
        i->size = 4;
        i->shape = calloc(8, sizeof *i->shape);
        while (i->ndim < 8 && sscanf(line + used, "%u%n", &i->shape[i->ndim], &step) == 1) {
            i->size *= i->shape[i->ndim++];
            used += step;
        }
        m->count++;
    }
    free(text);
    m->core = core;
    models++;
    *out = m;
    return OK;
}

int nrt_unload(model_t *m) {
    for (int i = 0; i < m->count; i++) free(m->infos[i].shape);
    for (int i = 0; i < m->recorded; i++) free(m->rows[i].values);
    free(m);
    models--;
    return OK;
}

#ifndef OLD
int nrt_get_model_tensor_info(model_t *m, infos_t **out) {
    TOLD();
    infos_t *all = calloc(1, sizeof *all + m->count * sizeof(info_t));
    all->count = m->count;
    memcpy(all->infos, m->infos, m->count * sizeof(info_t));
    for (int i = 0; i < m->count; i++) {
        all->infos[i].shape = calloc(8, sizeof(uint32_t));
        memcpy(all->infos[i].shape, m->infos[i].shape, 8 * sizeof(uint32_t));
    }
    *out = all;
    return OK;
}

int nrt_free_model_tensor_info(infos_t *all) {
    for (uint64_t i = 0; i < all->count; i++) free(all->infos[i].shape);
    free(all);
    return OK;
}
#endif

int nrt_tensor_allocate(int where, int core, size_t size, const char *name, tensor_t **out) {
    TOLD();
    if (where != 0 || core < 0 || core >= cores || !name) return INVALID;
    tensor_t *t = calloc(1, sizeof *t);
    t->bytes = calloc(1, size ? size : 1);
    t->size = size;
    t->core = core;
    tensors++;
    tensors_made++;
    *out = t;
    return OK;
}

void nrt_tensor_free(tensor_t **t) {
    if ((*t)->sets) misuse++; /* a set still holds it */
    free((*t)->bytes);
    free(*t);
    *t = 0;
    tensors--;
}

int nrt_tensor_write(tensor_t *t, const void *from, size_t offset, size_t size) {
    TOLD();
    if (offset > t->size || size > t->size - offset) return INVALID;
    memcpy((char *)t->bytes + offset, from, size);
    return OK;
}

int nrt_tensor_read(const tensor_t *t, void *to, size_t offset, size_t size) {
    TOLD();
    if (offset > t->size || size > t->size - offset) return INVALID;
    memcpy(to, (const char *)t->bytes + offset, size);
    return OK;
}

int nrt_allocate_tensor_set(set_t **out) { TOLD(); *out = calloc(1, sizeof **out); sets++; return OK; }

void nrt_destroy_tensor_set(set_t **s) {
    for (int i = 0; i < (*s)->count; i++) (*s)->tensors[i]->sets--;
    free(*s);
    *s = 0;
    sets--;
}

int nrt_add_tensor_to_tensor_set(set_t *s, const char *name, tensor_t *t) {
    TOLD();
    if (s->count == MOST || strlen(name) > 255) return INVALID;
    strcpy(s->names[s->count], name);
    s->tensors[s->count++] = t;
    t->sets++;
    return OK;
}

/* The tensor for `i`; none if it is missing, of another size or on another core. */
static tensor_t *find(const model_t *m, const info_t *i, const set_t *s) {
    for (int k = 0; k < s->count; k++) {
        tensor_t *t = s->tensors[k];
        if (!strcmp(s->names[k], i->name)) return t->size == i->size && t->core == m->core ? t : 0;
    }
    return 0;
}

/* Gives the recorded row for `seq` tokens of a row of the inputs. */
static int recall(const model_t *m, const int32_t *whole[3], uint32_t at, uint32_t seq, float *values, uint32_t width) {
    uint64_t hash = NOTHING;
    memset(values, 0, width * sizeof *values);
    for (uint32_t k = at; k < at + seq; k++) {
        int32_t token[2] = {whole[0][k], whole[2] ? whole[2][k] : 0};
        if (whole[1][k]) hash = hashed(hash, token, sizeof token);
    }
    if (hash == NOTHING) return OK;
    for (int i = 0; i < m->recorded; i++)
        if (m->rows[i].hash == hash) return memcpy(values, m->rows[i].values, width * sizeof *values), OK;
    return BAD_INPUT;
}

static int compute(const model_t *m, const set_t *in, set_t *out) {
    const int32_t *whole[3] = {0};
    int n = 0;
    uint32_t batch = 0, seq = 0;
    double weights = 0;
    uint64_t hash = NOTHING;
    for (int i = 0; i < m->count; i++) {
        const info_t *info = &m->infos[i];
        const tensor_t *t = find(m, info, info->usage ? out : in);
        if (!t) return INVALID;
        if (!info->usage && info->dtype == I32 && n < 3) {
            whole[n++] = t->bytes;
            batch = info->shape[0];
            seq = info->shape[1];
        }
        if (m->weights && !info->usage && info->dtype != I32) hash = hashed(hash, t->bytes, t->size);
        for (size_t k = 0; !info->usage && info->dtype == F32 && k < t->size / 4; k++) weights += ((float *)t->bytes)[k];
    }
    if (m->weights && m->weights != hash) return BAD_INPUT;
    for (int i = 0; i < m->count; i++) {
        const info_t *info = &m->infos[i];
        if (!info->usage) continue;
        float *values = find(m, info, out)->bytes;
        for (uint32_t b = 0; b < batch && m->recorded; b++) {
            int status = recall(m, whole, b * seq, seq, values + b * info->shape[1], info->shape[1]);
            if (status) return status;
        }
        for (uint32_t b = 0; b < batch && !m->recorded; b++)
            for (uint32_t l = 0; l < info->shape[1]; l++) {
                int64_t sum = 0;
                for (uint32_t k = 0; k < seq; k++)
                    if (whole[1][b * seq + k])
                        sum += (whole[0][b * seq + k] * (int64_t)(l + 1) + 7 * k + 13 * (n > 2 ? whole[2][b * seq + k] : 0)) % 97;
                values[(swap ? batch - 1 - b : b) * info->shape[1] + l] = (float)((double)sum + weights);
            }
    }
    return OK;
}

/* Waits until enough have begun, if it is told to; whether they have. */
static int met(void) {
    if (!meet) return 1;
    inside++;
    for (int i = 0; i < 20000 && inside < meet; i++) usleep(1000);
    return inside >= meet;
}

int nrt_execute(model_t *m, const set_t *in, set_t *out) {
    TOLD();
    if (atomic_flag_test_and_set(&busy[m->core])) return CORE_BUSY;
    executions++;
    on_core[m->core]++;
    int status = met() ? compute(m, in, out) : TIMEOUT;
    atomic_flag_clear(&busy[m->core]);
    return status;
}
