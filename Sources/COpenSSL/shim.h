// OpenSSL 3, loaded when it is first used: linked, it would cost every sidecar 1.5 MB of memory, and most use no TLS.
// `openssl_load` fills a table with the functions that SidecarTLS calls; OpenSSL's macros are functions here.
#pragma once
#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <openssl/x509_vfy.h>
#include <stddef.h>
#include <time.h>

#define COPENSSL_OF_CRYPTO(X) \
  X(ASN1_STRING_get0_data) X(ASN1_STRING_length) X(BIO_ctrl) X(BIO_ctrl_pending) X(BIO_free) X(BIO_new) \
  X(BIO_new_mem_buf) X(BIO_read) X(BIO_s_mem) X(BIO_write) X(ERR_clear_error) X(ERR_get_error) X(ERR_peek_error) \
  X(ERR_peek_last_error) X(ERR_reason_error_string) X(EVP_CIPHER_CTX_ctrl) X(EVP_CIPHER_CTX_free) X(EVP_CIPHER_CTX_new) \
  X(EVP_CipherFinal_ex) X(EVP_CipherInit_ex) X(EVP_CipherUpdate) X(EVP_PKEY_free) X(EVP_aes_128_gcm) \
  X(EVP_aes_192_gcm) X(EVP_aes_256_gcm) X(GENERAL_NAMES_free) \
  X(GENERAL_NAME_get0_value) X(OPENSSL_sk_num) X(OPENSSL_sk_value) X(PEM_read_bio_PrivateKey) \
  X(PEM_read_bio_X509) X(RAND_bytes) X(ASN1_TIME_to_tm) X(X509_NAME_oneline) X(X509_STORE_add_cert) X(X509_STORE_set_flags) X(X509_get0_notAfter) X(X509_get_subject_name) X(X509_STORE_CTX_get0_cert) X(X509_STORE_CTX_get_ex_data) X(X509_VERIFY_PARAM_set1_ip_asc) X(X509_VERIFY_PARAM_set_hostflags) \
  X(X509_free) X(X509_get_ext_d2i) X(X509_verify_cert_error_string)

#define COPENSSL_OF_SSL(X) \
  X(SSL_CTX_check_private_key) X(SSL_CTX_ctrl) X(SSL_CTX_free) X(SSL_CTX_get_cert_store) \
  X(SSL_CTX_load_verify_locations) X(SSL_CTX_new) X(SSL_CTX_set_alpn_protos) X(SSL_CTX_set_alpn_select_cb) \
  X(SSL_CTX_set_default_verify_paths) X(SSL_CTX_set_options) X(SSL_CTX_set_verify) X(SSL_CTX_use_PrivateKey) \
  X(SSL_CTX_use_certificate) X(SSL_ctrl) X(SSL_do_handshake) X(SSL_free) X(SSL_get0_alpn_selected) \
  X(SSL_get0_param) X(SSL_get0_peer_certificate) X(SSL_get_error) X(SSL_get_ex_data) X(SSL_get_ex_data_X509_STORE_CTX_idx) X(SSL_get_verify_result) X(SSL_get_version) \
  X(SSL_new) X(SSL_read) X(SSL_set1_host) X(SSL_set_accept_state) X(SSL_set_bio) X(SSL_set_connect_state) X(SSL_set_ex_data) \
  X(SSL_shutdown) X(SSL_write) X(TLS_client_method) X(TLS_server_method)

typedef struct {
#define X(name) __typeof__(&name) name;
  COPENSSL_OF_CRYPTO(X) COPENSSL_OF_SSL(X)
#undef X
} openssl_functions;

// Null when all is there, else what is missing, in the words of the dynamic loader.
static inline const char *openssl_load(openssl_functions *functions) {
  // Never closed: OpenSSL's own clean-up runs when the process ends.
  void *crypto = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
  if (!crypto) return dlerror();
  void *ssl = dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL);
  if (!ssl) return dlerror();
#define X(name) \
  if (!(functions->name = (__typeof__(&name))dlsym(crypto, #name))) return #name " is not in libcrypto.so.3";
  COPENSSL_OF_CRYPTO(X)
#undef X
#define X(name) \
  if (!(functions->name = (__typeof__(&name))dlsym(ssl, #name))) return #name " is not in libssl.so.3";
  COPENSSL_OF_SSL(X)
#undef X
  return NULL;
}

static inline void openssl_set_up(const openssl_functions *functions, SSL_CTX *context) {
  functions->SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
  functions->SSL_CTX_ctrl(
      context, SSL_CTRL_MODE, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_AUTO_RETRY, NULL);
  functions->SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
}
static inline long openssl_set_server_name(const openssl_functions *functions, SSL *ssl, const char *name) {
  return functions->SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, (void *)name);
}
static inline long openssl_add_chain(const openssl_functions *functions, SSL_CTX *context, X509 *certificate) {
  return functions->SSL_CTX_ctrl(context, SSL_CTRL_CHAIN_CERT, 1, certificate);
}
// An empty memory BIO asks for more rather than saying that it has ended.
static inline void openssl_retry_when_empty(const openssl_functions *functions, BIO *bio) {
  functions->BIO_ctrl(bio, BIO_C_SET_BUF_MEM_EOF_RETURN, -1, NULL);
}
// When the certificate is over, in seconds since 1970; -1 when that cannot be said.
static inline long long openssl_not_after(const openssl_functions *functions, const X509 *certificate) {
  struct tm parts;
  const ASN1_TIME *time = functions->X509_get0_notAfter(certificate);
  return time && functions->ASN1_TIME_to_tm(time, &parts) == 1 ? (long long)timegm(&parts) : -1;
}
// Whom it is for, cut to the buffer.
static inline void openssl_subject(const openssl_functions *functions, const X509 *certificate, char *text, int size) {
  text[0] = 0;
  functions->X509_NAME_oneline(functions->X509_get_subject_name(certificate), text, size);
}
static inline int openssl_reason(unsigned long error) { return ERR_GET_REASON(error); }
static inline int openssl_is_missing_pem(unsigned long error) {
  return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}
