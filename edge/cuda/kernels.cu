// Kernels of the chain: a frame to network input, an exit to a decision, a batch to its survivors.
//
// Compiled by NVRTC for the GPU it runs on. The tests run this very source on the host.

#define FUNCTION static __device__ __forceinline__

enum Format { GRAY = 0, BGR = 1, BGRX = 2, NV12 = 3 };

// An 8-bit picture in memory. NV12 has half as many rows again, of blue and red differences, from `chroma` on.
struct Picture {
    const unsigned char *pixels;
    const unsigned char *chroma;
    int height, width, pitch, format;
};

// Where a row or column of the result lies in the picture: between `first` and `next`, each with its share of 2048.
struct Place {
    int first, next, near, far;
};

// What the host says of a frame: the picture, and how to make a network's input of it.
struct Order {
    Picture picture;
    const Place *rows, *columns;
    const float *levels;  // for each channel, what each of the 256 values of a pixel is to the network
    int height, width, channels;
};

struct Colour {
    int blue, green, red;
};

FUNCTION int clamped(int value, int low, int high) { return value < low ? low : (value > high ? high : value); }

// BT.601 with a reduced range, as cameras give it; in 20 bits after the point, as OpenCV does it.
FUNCTION Colour from_yuv(int luma, int u, int v) {
    const int y = (luma < 16 ? 0 : luma - 16) * 1220542, half = 1 << 19;
    Colour c;
    c.blue = clamped((y + 2116026 * (u - 128) + half) >> 20, 0, 255);
    c.green = clamped((y - 409993 * (u - 128) - 852492 * (v - 128) + half) >> 20, 0, 255);
    c.red = clamped((y + 1673527 * (v - 128) + half) >> 20, 0, 255);
    return c;
}

FUNCTION Colour colour_at(const Picture &picture, int row, int column) {
    const unsigned char *line = picture.pixels + (long long)row * picture.pitch;
    Colour c;
    if (picture.format == GRAY) {
        c.blue = c.green = c.red = line[column];
    } else if (picture.format == NV12) {
        const unsigned char *pair = picture.chroma + (long long)(row / 2) * picture.pitch + (column / 2) * 2;
        c = from_yuv(line[column], pair[0], pair[1]);
    } else {
        const unsigned char *pixel = line + column * (picture.format == BGR ? 3 : 4);
        c.blue = pixel[0];
        c.green = pixel[1];
        c.red = pixel[2];
    }
    return c;
}

// OpenCV's bilinear interpolation of 8-bit values, bit for bit.
FUNCTION int interpolated(int a, int b, int c, int d, const Place &across, const Place &down) {
    const int upper = a * across.near + b * across.far, lower = c * across.near + d * across.far;
    return (((down.near * (upper >> 4)) >> 16) + ((down.far * (lower >> 4)) >> 16) + 2) >> 2;
}

// A pixel of the picture, resized.
FUNCTION Colour resized(const Picture &picture, const Place &down, const Place &across) {
    const Colour a = colour_at(picture, down.first, across.first), b = colour_at(picture, down.first, across.next);
    const Colour c = colour_at(picture, down.next, across.first), d = colour_at(picture, down.next, across.next);
    Colour found;
    found.blue = interpolated(a.blue, b.blue, c.blue, d.blue, across, down);
    found.green = interpolated(a.green, b.green, c.green, d.green, across, down);
    found.red = interpolated(a.red, b.red, c.red, d.red, across, down);
    return found;
}

// As OpenCV weighs colours.
FUNCTION int gray_of(const Colour &c) { return (c.blue * 3735 + c.green * 19235 + c.red * 9798 + 16384) >> 15; }

typedef unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void CUDARTAPI cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value);

// What the host reads when a frame is done; in memory that both see.
struct Answer {
    int label;
    float confidence, probability;
    int exit_index, is_final;
};

// What an exit said: its outputs, as its segment wrote them. The last exit has no flag.
struct Said {
    const int *label;
    const float *confidence, *logits;
    const unsigned char *exits;
    int classes, exit_index;
    float inverse_temperature;
};

// One thread a pixel of the network's input, whose shape is (channels, height, width): red, green and blue, or gray.
extern "C" __global__ void preprocess(const Order *order, float *out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    const int width = order->width, height = order->height;
    if (column >= width || row >= height) return;
    const Colour colour = resized(order->picture, order->rows[row], order->columns[column]);
    const long long plane = (long long)height * width;
    out += (long long)row * width + column;
    if (order->channels == 1) {
        *out = order->levels[order->picture.format == GRAY ? colour.red : gray_of(colour)];
    } else {
        out[0] = order->levels[colour.red];
        out[plane] = order->levels[256 + colour.green];
        out[2 * plane] = order->levels[512 + colour.blue];
    }
}

// The sum of one value of each thread of a warp, in all of them.
FUNCTION float warp_sum(float value) {
    for (int reach = 16; reach; reach /= 2) value += __shfl_xor_sync(0xffffffffu, value, reach);
    return value;
}

FUNCTION float warp_largest(float value) {
    for (int reach = 16; reach; reach /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, reach));
    return value;
}

// Note what an exit says; called by one warp. A later exit, where it runs, says it better and overwrites this.
// The probability is the highest of softmax(logits / temperature), which is 1 over its denominator.
FUNCTION int note(const Said &said, Answer *out) {
    float largest = __int_as_float(0xff800000), sum = 0.0f;  // minus infinity
    for (int c = threadIdx.x; c < said.classes; c += 32) largest = fmaxf(largest, said.logits[c]);
    largest = warp_largest(largest);
    for (int c = threadIdx.x; c < said.classes; c += 32) sum += expf((said.logits[c] - largest) * said.inverse_temperature);
    sum = warp_sum(sum);
    const int is_final = said.exits ? *said.exits != 0 : 1;
    if (threadIdx.x == 0) {
        out->label = *said.label;
        out->confidence = *said.confidence;
        out->probability = 1.0f / sum;
        out->exit_index = said.exit_index;
        out->is_final = is_final;
    }
    return is_final;
}

extern "C" __global__ void answer(const Said *said, Answer *out) { note(*said, out); }

// The same, and let the graph go on with the next segment unless this exit answers.
extern "C" __global__ void answer_or_go_on(cudaGraphConditionalHandle handle, const Said *said, Answer *out) {
    const int is_final = note(*said, out);
    if (threadIdx.x == 0) cudaGraphSetConditional(handle, is_final ? 0 : 1);
}

// What is known of one image of a batch.
struct Decided {
    int exit_index;
    float confidence;
    int label;
};

// Note what those images of a batch are who leave at an exit, and list the rows of those who go on, in their order;
// `images` says which image a row is, before and after. Called by one warp.
extern "C" __global__ void survivors(
    const Said *said, int rows, Decided *decided, int *images, int *going_on, int *count) {
    int found = 0;
    for (int start = 0; start < rows; start += 32) {
        const int row = start + threadIdx.x;
        const bool is_there = row < rows, goes_on = is_there && said->exits && !said->exits[row];
        const int image = is_there ? images[row] : 0;
        const unsigned all = __ballot_sync(0xffffffffu, goes_on);
        const int place = found + __popc(all & ((1u << threadIdx.x) - 1));
        __syncwarp();  // all have read their row before one is written to
        if (goes_on) {
            going_on[place] = row;
            images[place] = image;
        } else if (is_there) {
            decided[image] = Decided{said->exit_index, said->confidence[row], said->label[row]};
        }
        found += __popc(all);
    }
    if (threadIdx.x == 0) *count = found;
}

// Put the listed rows of a tensor together, blockIdx.y being the place in the list; a row is `units` long.
template <typename Unit>
FUNCTION void gather(const Unit *from, const int *rows, long long units, Unit *to) {
    const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (place < units) to[blockIdx.y * units + place] = from[rows[blockIdx.y] * units + place];
}

extern "C" __global__ void gather_bytes(
    const unsigned char *from, const int *rows, long long units, unsigned char *to) {
    gather(from, rows, units, to);
}

extern "C" __global__ void gather_words(const int4 *from, const int *rows, long long units, int4 *to) {
    gather(from, rows, units, to);
}
