// Makes a CUDA context on every GPU. One line a GPU.
#include <stdio.h>
#include <cuda_runtime.h>

static int failed(const char *call, cudaError_t error) {
  if (error) printf("%s failed: %s (error %d)\n", call, cudaGetErrorName(error), error);
  return error;
}

int main(void) {
  int count = 0, status = 0;
  if (failed("cudaGetDeviceCount", cudaGetDeviceCount(&count))) return 1;
  for (int gpu = 0; gpu < count; gpu++) {
    char address[32] = "?";
    void *memory;
    cudaDeviceGetPCIBusId(address, sizeof address, gpu);
    printf("GPU %d %s: ", gpu, address);
    if (failed("cudaSetDevice", cudaSetDevice(gpu)) || failed("cudaMalloc", cudaMalloc(&memory, 1))) status = 1;
    else printf("context on it\n");
  }
  return status;
}
