// A segment of a fixed duration. The logit of its own class is the image's value at `index`, or NaN if the value is
// negative; those of the other classes, one per exit, are 0. `runs` counts its runs.
extern "C" __global__ void timed_segment(
    long long nanoseconds, int index, int exits, const float *image, float *cut, float *logits, unsigned int *runs) {
    unsigned long long started, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(started));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - started < nanoseconds);
    if (threadIdx.x) return;
    const float value = image[index] < 0.0f ? __int_as_float(0x7fc00000) : image[index];
    for (int k = 0; k < exits; ++k) logits[k] = k == index ? value : 0.0f;
    if (cut) *cut = value;
    atomicAdd(runs, 1u);
}
