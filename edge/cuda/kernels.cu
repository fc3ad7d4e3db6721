// Kernels of the chain: a frame to network input, an exit to a decision, a batch to its survivors.
//
// Compiled by NVRTC for the GPU it runs on. The arithmetic of `preprocess` is in `network_value`, which a host
// compiler takes as well: the tests hold it to edge.preprocess that way.

#ifdef __CUDACC__
#define FUNCTION static __device__ __forceinline__
#else
#define FUNCTION static inline
#endif

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

#ifdef __CUDACC__

typedef unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void CUDARTAPI cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value);

// What the host reads when a frame is done; in pinned memory.
struct Answer {
    int label;
    float confidence;
    int exit_index;
    unsigned int frame;
};

// One thread a value, as (channels, height, width).
extern "C" __global__ void preprocess(Picture picture, Input input, float *out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= input.width || row >= input.height) return;
    const long long place = ((long long)blockIdx.z * input.height + row) * input.width + column;
    out[place] = network_value(picture, input, blockIdx.z, row, column);
}

// Note what an exit says. The next one, where it runs, says it better and overwrites this.
extern "C" __global__ void answer(
    const int *label, const float *confidence, int exit_index, const unsigned int *frame, Answer *out) {
    out->label = *label;
    out->confidence = *confidence;
    out->exit_index = exit_index;
    out->frame = *frame;
}

// Let the graph go on with the next segment unless this exit answers.
extern "C" __global__ void go_on(cudaGraphConditionalHandle handle, const unsigned char *exits) {
    cudaGraphSetConditional(handle, *exits ? 0 : 1);
}

// List the samples of a batch that did not exit, in order. One block, as many threads as a power of two.
extern "C" __global__ void survivors(const unsigned char *exits, int samples, int *indices, int *count) {
    extern __shared__ int before[];
    int found = 0;
    for (int start = 0; start < samples; start += blockDim.x) {
        const int sample = start + threadIdx.x;
        const int stays = sample < samples && !exits[sample];
        before[threadIdx.x] = stays;
        __syncthreads();
        for (int reach = 1; reach < blockDim.x; reach *= 2) {
            const int more = threadIdx.x >= reach ? before[threadIdx.x - reach] : 0;
            __syncthreads();
            before[threadIdx.x] += more;
            __syncthreads();
        }
        if (stays) indices[found + before[threadIdx.x] - 1] = sample;
        found += before[blockDim.x - 1];
        __syncthreads();
    }
    if (threadIdx.x == 0) *count = found;
}

// Copy the rows of the listed samples together: blockIdx.y is the place in the list, rows are `bytes` long.
extern "C" __global__ void gather(const unsigned char *from, const int *indices, long long bytes, unsigned char *to) {
    const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (place < bytes) to[blockIdx.y * bytes + place] = from[indices[blockIdx.y] * bytes + place];
}

#else

extern "C" void preprocess_on_host(const Picture *picture, const Input *input, float *out) {
    for (int channel = 0; channel < input->channels; ++channel)
        for (int row = 0; row < input->height; ++row)
            for (int column = 0; column < input->width; ++column)
                *out++ = network_value(*picture, *input, channel, row, column);
}

#endif
