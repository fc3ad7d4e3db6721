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

// What a network reads: a crop of the picture, resized, its values normalised.
struct Input {
    int height, width, channels;
    int crop_top, crop_left, crop_height, crop_width;
    float mean[3], std[3];
};

// What the host says of a frame.
struct Order {
    Picture picture;
    Input input;
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

// Where a pixel of the result lies in the crop: between `first` and the next, each with its share of 2048.
struct Place {
    int first, next, near, far;
};

FUNCTION Place place_of(int index, int wanted, int available) {
    const float at = (float)((index + 0.5) * ((double)available / wanted) - 0.5);
    Place p;
    p.first = (int)floorf(at);
    float share = at - p.first;
    if (p.first < 0) p.first = 0, share = 0.0f;
    if (p.first >= available - 1) p.first = available - 1, share = 0.0f;
    p.next = clamped(p.first + 1, 0, available - 1);
    p.near = (int)rintf((1.0f - share) * 2048.0f);
    p.far = (int)rintf(share * 2048.0f);
    return p;
}

// OpenCV's bilinear interpolation of 8-bit values, bit for bit.
FUNCTION int interpolated(int a, int b, int c, int d, const Place &across, const Place &down) {
    const int upper = a * across.near + b * across.far, lower = c * across.near + d * across.far;
    return (((down.near * (upper >> 4)) >> 16) + ((down.far * (lower >> 4)) >> 16) + 2) >> 2;
}

// One value of the network's input: cropped, resized, normalised. Channels are red, green, blue, or gray alone.
FUNCTION float network_value(const Picture &picture, const Input &input, int channel, int row, int column) {
    const Place down = place_of(row, input.height, input.crop_height);
    const Place across = place_of(column, input.width, input.crop_width);
    const int y0 = input.crop_top + down.first, y1 = input.crop_top + down.next;
    const int x0 = input.crop_left + across.first, x1 = input.crop_left + across.next;
    const Colour a = colour_at(picture, y0, x0), b = colour_at(picture, y0, x1);
    const Colour c = colour_at(picture, y1, x0), d = colour_at(picture, y1, x1);
    const int blue = interpolated(a.blue, b.blue, c.blue, d.blue, across, down);
    const int green = interpolated(a.green, b.green, c.green, d.green, across, down);
    const int red = interpolated(a.red, b.red, c.red, d.red, across, down);
    int level = channel == 0 ? red : (channel == 1 ? green : blue);
    if (input.channels == 1) level = picture.format == GRAY ? red : (blue * 3735 + green * 19235 + red * 9798 + 16384) >> 15;
    return (level / 255.0f - input.mean[channel]) / input.std[channel];
}

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
    float coldness;
};

// One thread a value, as (channels, height, width).
extern "C" __global__ void preprocess(const Order *order, float *out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    const Input &input = order->input;
    if (column >= input.width || row >= input.height) return;
    const long long place = ((long long)blockIdx.z * input.height + row) * input.width + column;
    out[place] = network_value(order->picture, input, blockIdx.z, row, column);
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
    for (int c = threadIdx.x; c < said.classes; c += 32) sum += expf((said.logits[c] - largest) * said.coldness);
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

extern "C" __global__ void gather_bytes(const unsigned char *from, const int *rows, long long units, unsigned char *to) {
    gather(from, rows, units, to);
}

extern "C" __global__ void gather_words(const int4 *from, const int *rows, long long units, int4 *to) {
    gather(from, rows, units, to);
}
