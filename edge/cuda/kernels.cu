// Kernels of the chain: frame preprocessing, exit decisions, and compaction of a batch.
//
// Compiled by NVRTC for the GPU it runs on. The tests run this very source on the host.

#define FUNCTION static __device__ __forceinline__

enum Format { GRAY = 0, BGR = 1, BGRX = 2, NV12 = 3 };

// An 8-bit image. In NV12, half as many rows of interleaved U and V follow at `chroma`. `pitch` is the bytes of a row.
// Rows of BGRX are aligned to its pixels, rows of NV12 to its pairs: one read fetches one of them.
struct Image {
    const unsigned char *pixels, *chroma;
    int pitch, format;
};

// The two rows or columns of the image that an output row or column is interpolated from; weights add up to 2048.
struct BilinearTap {
    int index0, index1, weight0, weight1;
};

// Preprocessing of images of one size and format. In memory, the taps of all `height` rows and `width` columns of the
// output follow, then for each channel the normalised values of the 256 possible pixel values.
struct PreprocessParams {
    int image_height, pitch, format;
    int height, width, channels;
};

struct Colour {
    int blue, green, red;
};

FUNCTION int clamp(int value, int low, int high) { return value < low ? low : (value > high ? high : value); }

// BT.601 with limited range, in OpenCV's fixed-point arithmetic with 20 fractional bits.
FUNCTION Colour colour_from_yuv(int luma, int u, int v) {
    const int y = (luma < 16 ? 0 : luma - 16) * 1220542, half = 1 << 19;
    Colour c;
    c.blue = clamp((y + 2116026 * (u - 128) + half) >> 20, 0, 255);
    c.green = clamp((y - 409993 * (u - 128) - 852492 * (v - 128) + half) >> 20, 0, 255);
    c.red = clamp((y + 1673527 * (v - 128) + half) >> 20, 0, 255);
    return c;
}

FUNCTION Colour colour_at(const Image &image, int row, int column) {
    const unsigned char *line = image.pixels + (long long)row * image.pitch;
    Colour c;
    if (image.format == GRAY) {
        c.blue = c.green = c.red = line[column];
    } else if (image.format == NV12) {
        const unsigned char *pairs = image.chroma + (long long)(row / 2) * image.pitch;
        const unsigned pair = reinterpret_cast<const unsigned short *>(pairs)[column / 2];  // U in the lower byte
        c = colour_from_yuv(line[column], pair & 0xff, pair >> 8);
    } else if (image.format == BGRX) {
        const unsigned pixel = reinterpret_cast<const unsigned *>(line)[column];  // blue in the lowest byte
        c.blue = pixel & 0xff;
        c.green = pixel >> 8 & 0xff;
        c.red = pixel >> 16 & 0xff;
    } else {
        const unsigned char *pixel = line + column * 3;
        c.blue = pixel[0];
        c.green = pixel[1];
        c.red = pixel[2];
    }
    return c;
}

// OpenCV's bilinear interpolation of 8-bit values, bit for bit.
FUNCTION int interpolate(int a, int b, int c, int d, const BilinearTap &column, const BilinearTap &row) {
    const int upper = a * column.weight0 + b * column.weight1, lower = c * column.weight0 + d * column.weight1;
    return (((row.weight0 * (upper >> 4)) >> 16) + ((row.weight1 * (lower >> 4)) >> 16) + 2) >> 2;
}

FUNCTION Colour sample_bilinear(const Image &image, const BilinearTap &row, const BilinearTap &column) {
    const Colour a = colour_at(image, row.index0, column.index0), b = colour_at(image, row.index0, column.index1);
    const Colour c = colour_at(image, row.index1, column.index0), d = colour_at(image, row.index1, column.index1);
    Colour result;
    result.blue = interpolate(a.blue, b.blue, c.blue, d.blue, column, row);
    result.green = interpolate(a.green, b.green, c.green, d.green, column, row);
    result.red = interpolate(a.red, b.red, c.red, d.red, column, row);
    return result;
}

// OpenCV's weights of BGR to gray.
FUNCTION int gray_from_colour(const Colour &c) {
    return (c.blue * 3735 + c.green * 19235 + c.red * 9798 + 16384) >> 15;
}

// One thread per pixel of the network's input, shape (channels, height, width), in RGB or gray.
extern "C" __global__ void preprocess(const unsigned char *pixels, const PreprocessParams *params, float *out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    const int height = params->height, width = params->width, pitch = params->pitch;
    if (column >= width || row >= height) return;
    const BilinearTap *row_taps = reinterpret_cast<const BilinearTap *>(params + 1), *column_taps = row_taps + height;
    const float *lut = reinterpret_cast<const float *>(column_taps + width);
    const Image image = {pixels, pixels + (long long)params->image_height * pitch, pitch, params->format};
    const Colour colour = sample_bilinear(image, row_taps[row], column_taps[column]);
    const long long plane = (long long)height * width;
    out += (long long)row * width + column;
    if (params->channels == 1) {
        *out = lut[image.format == GRAY ? colour.red : gray_from_colour(colour)];
    } else {
        out[0] = lut[colour.red];
        out[plane] = lut[256 + colour.green];
        out[2 * plane] = lut[512 + colour.blue];
    }
}

typedef unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void CUDARTAPI cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value);

// The decision of one exit for one sample. `is_final`: this exit answers.
struct Prediction {
    int label_index;
    float probability;
    int exit_index;
    float confidence;
    int is_final;
};

// An exit's logits, shape (rows, classes), and its rule; `threshold` is null for the last exit, which always answers.
struct Exit {
    const float *logits, *threshold;
    int classes, exit_index;
    float inverse_temperature;
};

struct Logit {
    float value;
    int label;
};

// The order of NumPy's argmax: NaN is larger than any number, and of equal values the first counts.
FUNCTION bool precedes(const Logit &a, const Logit &b) {
    const bool a_is_nan = a.value != a.value, b_is_nan = b.value != b.value;
    if (a_is_nan != b_is_nan) return a_is_nan;
    return a.value > b.value || (!(a.value < b.value) && a.label < b.label);
}

FUNCTION Logit warp_max(Logit best) {
    for (int offset = 16; offset; offset /= 2) {
        Logit other;
        other.value = __shfl_xor_sync(0xffffffffu, best.value, offset);
        other.label = __shfl_xor_sync(0xffffffffu, best.label, offset);
        if (precedes(other, best)) best = other;
    }
    return best;
}

FUNCTION float warp_sum(float value) {
    for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// The exit rule of `edge.decision` for the sample of this block, which is one warp. The maximum of a softmax is 1 over
// its denominator; NaN makes it NaN, which reaches no threshold. Returns `is_final`.
FUNCTION int decide_sample(const Exit &exit, Prediction *out) {
    const float *logits = exit.logits + (long long)blockIdx.x * exit.classes;
    const float threshold = exit.threshold ? *exit.threshold : 0.0f;  // early: it may lie in the host's memory
    Logit best = {__int_as_float(0xff800000), 0x7fffffff};  // minus infinity
    for (int c = threadIdx.x; c < exit.classes; c += 32) {
        const Logit logit = {logits[c], c};
        if (precedes(logit, best)) best = logit;
    }
    best = warp_max(best);
    float sum = 0.0f, calibrated_sum = 0.0f;
    for (int c = threadIdx.x; c < exit.classes; c += 32) {
        const float shifted = logits[c] - best.value;
        sum += expf(shifted);
        calibrated_sum += expf(shifted * exit.inverse_temperature);
    }
    const float confidence = 1.0f / warp_sum(sum), probability = 1.0f / warp_sum(calibrated_sum);
    const int is_final = exit.threshold ? confidence >= threshold : 1;
    if (threadIdx.x == 0) out[blockIdx.x] = Prediction{best.label, probability, exit.exit_index, confidence, is_final};
    return is_final;
}

extern "C" __global__ void decide(
    const float *logits, const float *threshold, int classes, int exit_index, float inverse_temperature,
    Prediction *out) {
    decide_sample({logits, threshold, classes, exit_index, inverse_temperature}, out);
}

// The same, and set the graph's condition: the next segment runs unless this exit answers.
extern "C" __global__ void decide_and_set_condition(
    cudaGraphConditionalHandle condition, const float *logits, const float *threshold, int classes, int exit_index,
    float inverse_temperature, Prediction *out) {
    const int is_final = decide_sample({logits, threshold, classes, exit_index, inverse_temperature}, out);
    if (threadIdx.x == 0) cudaGraphSetConditional(condition, is_final ? 0 : 1);
}

// Keep the final decisions of a batch's rows, and list the active rows, which have none, in order. `samples` holds the
// sample of each row, before and after. Called by one warp.
extern "C" __global__ void compact(
    const Prediction *decisions, int rows, Prediction *predictions, int *samples, int *active_rows, int *active_count) {
    int count = 0;
    for (int start = 0; start < rows; start += 32) {
        const int row = start + threadIdx.x;
        const bool is_row = row < rows, is_active = is_row && !decisions[row].is_final;
        const int sample = is_row ? samples[row] : 0;
        const unsigned active_lanes = __ballot_sync(0xffffffffu, is_active);
        const int position = count + __popc(active_lanes & ((1u << threadIdx.x) - 1));
        __syncwarp();  // every lane has read its sample before one is overwritten
        if (is_active) {
            active_rows[position] = row;
            samples[position] = sample;
        } else if (is_row) {
            predictions[sample] = decisions[row];
        }
        count += __popc(active_lanes);
    }
    if (threadIdx.x == 0) *active_count = count;
}

// Copy the listed rows of a tensor to consecutive rows; blockIdx.y is the position in the list, a row has `units`.
template <typename Unit>
FUNCTION void gather(const Unit *from, const int *rows, long long units, Unit *to) {
    const long long unit = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (unit < units) to[blockIdx.y * units + unit] = from[rows[blockIdx.y] * units + unit];
}

extern "C" __global__ void gather_bytes(
    const unsigned char *from, const int *rows, long long units, unsigned char *to) {
    gather(from, rows, units, to);
}

extern "C" __global__ void gather_words(const int4 *from, const int *rows, long long units, int4 *to) {
    gather(from, rows, units, to);
}
