#include <linux/module.h>
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION("2.5");
