"""What Mofka knows of libfabric's binary interface, and how `_bindings.py` is made of it.

Run ``python -m mochi.margo.fabric.declarations`` after a change: it needs pycparser, and no compiler. Names and values
are those of libfabric's manual pages. Structs that libfabric allocates are declared as far as they are read: from
version 1.9 on they have grown at their ends alone. Those that Mofka allocates end with room for what newer versions
write there.
"""

from pathlib import Path

DECLARATIONS = """
typedef uint64_t fi_addr_t;

struct fid { size_t fclass; void *context; struct fi_ops *ops; };
struct fi_ops {
    size_t size;
    int (*close)(struct fid *);
    int (*bind)(struct fid *, struct fid *, uint64_t flags);
    int (*control)(struct fid *, int command, void *);
};

struct fi_tx_attr {
    uint64_t caps, mode, op_flags, msg_order, comp_order;
    size_t inject_size, size;
};
struct fi_ep_attr {
    int type;
    uint32_t protocol, protocol_version;
    size_t max_msg_size, msg_prefix_size, max_order_raw_size, max_order_war_size, max_order_waw_size;
    uint64_t mem_tag_format;
    size_t tx_ctx_cnt, rx_ctx_cnt, auth_key_size;
    uint8_t *auth_key;
};
struct fi_domain_attr {
    void *domain;
    char *name;
    int threading, control_progress, data_progress, resource_mgmt, av_type, mr_mode;
    size_t mr_key_size;
};
struct fi_fabric_attr { void *fabric; char *name; char *prov_name; uint32_t prov_version, api_version; };
struct fi_info {
    struct fi_info *next;
    uint64_t caps, mode;
    uint32_t addr_format;
    size_t src_addrlen, dest_addrlen;
    void *src_addr, *dest_addr;
    struct fid *handle;
    struct fi_tx_attr *tx_attr;
    void *rx_attr;
    struct fi_ep_attr *ep_attr;
    struct fi_domain_attr *domain_attr;
    struct fi_fabric_attr *fabric_attr;
};

struct fid_fabric { struct fid fid; struct fi_ops_fabric *ops; };
struct fid_domain { struct fid fid; struct fi_ops_domain *ops; struct fi_ops_mr *mr; };
struct fid_av { struct fid fid; struct fi_ops_av *ops; };
struct fid_cq { struct fid fid; struct fi_ops_cq *ops; };
struct fid_cntr { struct fid fid; };
struct fid_mr { struct fid fid; void *mem_desc; uint64_t key; };
struct fid_ep { struct fid fid; void *ops; struct fi_ops_cm *cm; void *msg; struct fi_ops_rma *rma; };

struct fi_ops_fabric {
    size_t size;
    int (*domain)(struct fid_fabric *, struct fi_info *, struct fid_domain **, void *context);
    void *passive_ep, *eq_open, *wait_open;
    int (*trywait)(struct fid_fabric *, struct fid **, int count);
};

struct fi_av_attr {
    int type, rx_ctx_bits;
    size_t count, ep_per_node;
    const char *name;
    void *map_addr;
    uint64_t flags;
    char room[64];
};
struct fi_cq_attr {
    size_t size;
    uint64_t flags;
    int format, wait_obj, signaling_vector, wait_cond;
    void *wait_set;
    char room[64];
};
struct fi_cntr_attr { int events, wait_obj; void *wait_set; uint64_t flags; char room[64]; };
struct fi_ops_domain {
    size_t size;
    int (*av_open)(struct fid_domain *, struct fi_av_attr *, struct fid_av **, void *context);
    int (*cq_open)(struct fid_domain *, struct fi_cq_attr *, struct fid_cq **, void *context);
    int (*endpoint)(struct fid_domain *, struct fi_info *, struct fid_ep **, void *context);
    void *scalable_ep;
    int (*cntr_open)(struct fid_domain *, struct fi_cntr_attr *, struct fid_cntr **, void *context);
};
struct fi_ops_mr {
    size_t size;
    int (*reg)(struct fid *, const void *, size_t length, uint64_t access, uint64_t offset, uint64_t requested_key,
               uint64_t flags, struct fid_mr **, void *context);
};
struct fi_ops_av {
    size_t size;
    int (*insert)(struct fid_av *, const void *address, size_t count, fi_addr_t *, uint64_t flags, void *context);
    void *insertsvc, *insertsym;
    int (*remove)(struct fid_av *, fi_addr_t *, size_t count, uint64_t flags);
};

struct fi_cq_msg_entry { void *op_context; uint64_t flags; size_t len; };
struct fi_cq_err_entry {
    void *op_context;
    uint64_t flags;
    size_t len;
    void *buf;
    uint64_t data, tag;
    size_t olen;
    int err, prov_errno;
    void *err_data;
    size_t err_data_size;
    char room[64];
};
struct fi_ops_cq {
    size_t size;
    ssize_t (*read)(struct fid_cq *, void *, size_t count);
    void *readfrom;
    ssize_t (*readerr)(struct fid_cq *, struct fi_cq_err_entry *, uint64_t flags);
    void *sread, *sreadfrom, *signal;
    const char *(*strerror)(struct fid_cq *, int prov_errno, const void *err_data, char *, size_t length);
};

struct fi_ops_cm { size_t size; void *setname; int (*getname)(struct fid *, void *, size_t *length); };
struct fi_ops_rma {
    size_t size;
    ssize_t (*read)(struct fid_ep *, void *, size_t length, void *desc, fi_addr_t, uint64_t address, uint64_t key,
                    void *context);
    void *readv, *readmsg;
    ssize_t (*write)(struct fid_ep *, const void *, size_t length, void *desc, fi_addr_t, uint64_t address,
                     uint64_t key, void *context);
};

uint32_t fi_version(void);
int fi_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags, const struct fi_info *hints,
               struct fi_info **);
void fi_freeinfo(struct fi_info *);
struct fi_info *fi_dupinfo(const struct fi_info *);
int fi_fabric(struct fi_fabric_attr *, struct fid_fabric **, void *context);
const char *fi_strerror(int);
char *strdup(const char *);
"""

BINDINGS = Path(__file__).with_name("_bindings.py")


def generate(target: Path = BINDINGS) -> None:
    """Write the module that cffi reads at run time."""
    from cffi import FFI  # a tool of this step; at run time its backend alone is needed

    builder = FFI()
    builder.cdef(DECLARATIONS)
    builder.set_source("mochi.margo.fabric._bindings", None)
    builder.emit_python_code(str(target))
    target.write_text(
        '"""Made by `mochi.margo.fabric.declarations`; what libfabric looks like to cffi."""\n\n'
        + target.read_text()
    )


if __name__ == "__main__":
    generate()
