// Kernels of the chain: frame preprocessing, exit results, and compaction of a batch.
//
// Compiled by NVRTC for the GPU it runs on. The tests run this very source on the host.

#define FUNCTION static __device__ __forceinline__

enum Format { GRAY = 0, BGR = 1, BGRX = 2, NV12 = 3 };

// An 8-bit image. In NV12, half as many rows of interleaved U and V follow at `chroma`. `pitch` is the bytes of a row.
struct Image {
    const unsigned char *pixels;
    const unsigned char *chroma;
    int height, width, pitch, format;
};

// The two rows or columns of the image that an output row or column is interpolated from; weights add up to 2048.
struct BilinearTap {
    int index0, index1, weight0, weight1;
};

struct PreprocessParams {
    Image image;
    const BilinearTap *row_taps, *column_taps;
    const float *lut;  // normalised values of the 256 possible pixel values, per channel
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
        const unsigned char *pair = image.chroma + (long long)(row / 2) * image.pitch + (column / 2) * 2;
        c = colour_from_yuv(line[column], pair[0], pair[1]);
    } else {
        const unsigned char *pixel = line + column * (image.format == BGR ? 3 : 4);
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
extern "C" __global__ void preprocess(const PreprocessParams *params, float *out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    const int width = params->width, height = params->height;
    if (column >= width || row >= height) return;
    const Colour colour = sample_bilinear(params->image, params->row_taps[row], params->column_taps[column]);
    const long long plane = (long long)height * width;
    out += (long long)row * width + column;
    if (params->channels == 1) {
        *out = params->lut[params->image.format == GRAY ? colour.red : gray_from_colour(colour)];
    } else {
        out[0] = params->lut[colour.red];
        out[plane] = params->lut[256 + colour.green];
        out[2 * plane] = params->lut[512 + colour.blue];
    }
}

typedef unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void CUDARTAPI cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value);

// The result of one sample, as the host reads it. `is_final`: this exit answers.
struct Prediction {
    int label_index;
    float probability;
    int exit_index;
    float confidence;
    int is_final;
};

// An exit's raw tensors, written by its segment; `exit_flag` is null for the last exit.
struct ExitOutputs {
    const int *label;
    const float *confidence, *logits;
    const unsigned char *exit_flag;
    int classes, exit_index;
    float inverse_temperature;
};

FUNCTION float warp_sum(float value) {
    for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

FUNCTION float warp_max(float value) {
    for (int offset = 16; offset; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

FUNCTION float minus_infinity() { return __int_as_float(0xff800000); }

// The maximum of softmax(logits / temperature), which is 1 over its denominator; one sample, called by one warp.
FUNCTION float warp_probability(const ExitOutputs &exit) {
    float max_logit = minus_infinity(), sum = 0.0f;
    for (int c = threadIdx.x; c < exit.classes; c += 32) max_logit = fmaxf(max_logit, exit.logits[c]);
    max_logit = warp_max(max_logit);
    for (int c = threadIdx.x; c < exit.classes; c += 32)
        sum += expf((exit.logits[c] - max_logit) * exit.inverse_temperature);
    return 1.0f / warp_sum(sum);
}

// The same for one row of a batch, by one thread.
FUNCTION float row_probability(const ExitOutputs &exit, int row) {
    const float *logits = exit.logits + (long long)row * exit.classes;
    float max_logit = minus_infinity(), sum = 0.0f;
    for (int c = 0; c < exit.classes; ++c) max_logit = fmaxf(max_logit, logits[c]);
    for (int c = 0; c < exit.classes; ++c) sum += expf((logits[c] - max_logit) * exit.inverse_temperature);
    return 1.0f / sum;
}

// Write one exit's result; a later exit, where it runs, overwrites it. Called by one warp; returns `is_final`.
FUNCTION int write_result(const ExitOutputs &exit, Prediction *out) {
    const float probability = warp_probability(exit);
    const int is_final = exit.exit_flag ? *exit.exit_flag != 0 : 1;
    if (threadIdx.x == 0) *out = Prediction{*exit.label, probability, exit.exit_index, *exit.confidence, is_final};
    return is_final;
}

extern "C" __global__ void write_prediction(const ExitOutputs *exit, Prediction *out) { write_result(*exit, out); }

// The same, and set the graph's condition: the next segment runs unless this exit answers.
extern "C" __global__ void write_prediction_and_condition(
    cudaGraphConditionalHandle handle, const ExitOutputs *exit, Prediction *out) {
    const int is_final = write_result(*exit, out);
    if (threadIdx.x == 0) cudaGraphSetConditional(handle, is_final ? 0 : 1);
}

// Write the results of a batch's rows that exit, and list the active rows, which do not, in order. `samples` holds the
// sample of each row, before and after. Called by one warp.
extern "C" __global__ void compact(
    const ExitOutputs *exit, int rows, Prediction *predictions, int *samples, int *active_rows, int *active_count) {
    int count = 0;
    for (int start = 0; start < rows; start += 32) {
        const int row = start + threadIdx.x;
        const bool is_row = row < rows, is_active = is_row && exit->exit_flag && !exit->exit_flag[row];
        const int sample = is_row ? samples[row] : 0;
        const unsigned active_lanes = __ballot_sync(0xffffffffu, is_active);
        const int position = count + __popc(active_lanes & ((1u << threadIdx.x) - 1));
        __syncwarp();  // every lane has read its sample before one is overwritten
        if (is_active) {
            active_rows[position] = row;
            samples[position] = sample;
        } else if (is_row) {
            const float probability = row_probability(*exit, row);
            predictions[sample] = Prediction{exit->label[row], probability, exit->exit_index, exit->confidence[row], 1};
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
