// The control chart of `plugins/control-chart`, in C: the same configuration, the same alarms, and the same state, so that either of
// the two can go on with what the other one has kept.
//
// `bindings` makes `message_handler.h` from `wit/`. There is no JSON library here: `number_at` finds a number in an object, and does
// not check what comes after it.

#include "message_handler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT "control-chart/1"

// Bytes of the longest text that is written here: six numbers of at most 24 characters with their names.
#define LONGEST 512

typedef struct {
  uint64_t count;
  double mean, m2, ewma;
  uint64_t last_sequence;
} chart_t;

struct exports_parti_plugin_handler_partition_handler_t {
  // The partition's id as JSON, and where its alarms go.
  char *partition, *subject;
  char *field;
  double width, weight;
  uint64_t warmup;
  chart_t chart;
};

typedef struct exports_parti_plugin_handler_partition_handler_t handler_t;

static const char *skip_blanks(const char *at) { return at + strspn(at, " \t\r\n"); }

// What follows the value at `at`; nothing if there is no value.
static const char *skip_value(const char *at) {
  at = skip_blanks(at);
  if (*at == '"') {
    for (at++; *at && *at != '"'; at++)
      if (*at == '\\' && at[1]) at++;
    return *at ? at + 1 : NULL;
  }
  if (*at != '{' && *at != '[') {
    size_t length = strcspn(at, ",]} \t\r\n");
    return length ? at + length : NULL;
  }
  // Brackets in pairs, and texts in between: enough to find the end.
  int depth = 0;
  do {
    if (*at == '{' || *at == '[') depth++;
    if (*at == '}' || *at == ']') depth--;
    at = *at == '"' ? skip_value(at) : at + 1;
  } while (at && *at && depth > 0);
  return depth == 0 ? at : NULL;
}

// The number under a name of a JSON object. Whether there is one.
static bool number_at(const char *object, const char *name, double *number) {
  const char *at = skip_blanks(object);
  if (*at != '{') return false;
  for (at = skip_blanks(at + 1); *at == '"'; at = skip_blanks(at + 1)) {
    const char *key = at + 1, *end = skip_value(at);
    if (!end) return false;
    bool is_it = strlen(name) == (size_t)(end - 1 - key) && strncmp(key, name, end - 1 - key) == 0;
    at = skip_blanks(end);
    if (*at != ':') return false;
    at = skip_blanks(at + 1);
    if (is_it) {
      char *after;
      *number = strtod(at, &after);
      // Of what strtod reads, JSON has no hexadecimal numbers, no infinity, and nothing that begins otherwise.
      return after > at && strspn(at, "+-.0123456789eE") == (size_t)(after - at) && *at != '+' && *at != '.';
    }
    at = skip_value(at);
    if (!at) return false;
    at = skip_blanks(at);
    if (*at != ',') return false;
  }
  return false;
}

// A text of its own, with an end. The other one stays as it is.
static char *text_of(const uint8_t *bytes, size_t length) {
  char *text = malloc(length + 1);
  memcpy(text, bytes, length);
  text[length] = 0;
  return text;
}

// An id as JSON: it has no control characters.
static char *quoted(const char *id) {
  char *text = malloc(2 * strlen(id) + 3), *at = text;
  *at++ = '"';
  for (; *id; id++) {
    if (*id == '"' || *id == '\\') *at++ = '\\';
    *at++ = *id;
  }
  *at++ = '"';
  *at = 0;
  return text;
}

static char *setting(const char *name, const char *otherwise) {
  message_handler_string_t key, value;
  message_handler_string_set(&key, name);
  if (!parti_plugin_config_get(&key, &value)) return text_of((const uint8_t *)otherwise, strlen(otherwise));
  char *text = text_of(value.ptr, value.len);
  message_handler_string_free(&value);
  return text;
}

static double number_setting(const char *name, const char *otherwise) {
  char *text = setting(name, otherwise);
  double number = atof(text);
  free(text);
  return number;
}

static bool read_chart(chart_t *chart, const exports_parti_plugin_handler_snapshot_t *from) {
  char *text = text_of(from->data.ptr, from->data.len);
  double count, last_sequence;
  bool is_read = number_at(text, "count", &count) && number_at(text, "mean", &chart->mean) &&
                 number_at(text, "m2", &chart->m2) && number_at(text, "ewma", &chart->ewma) &&
                 number_at(text, "last_sequence", &last_sequence);
  if (is_read) {
    chart->count = (uint64_t)count;
    chart->last_sequence = (uint64_t)last_sequence;
  }
  free(text);
  return is_read;
}

bool exports_parti_plugin_handler_static_partition_handler_open(
    exports_parti_plugin_handler_partition_t *partition, exports_parti_plugin_handler_open_reason_t *why,
    exports_parti_plugin_handler_snapshot_t *from, exports_parti_plugin_handler_own_partition_handler_t *ret,
    message_handler_string_t *err) {
  chart_t chart = {0};
  bool is_ours = !from || (from->format.len == strlen(FORMAT) && memcmp(from->format.ptr, FORMAT, strlen(FORMAT)) == 0);
  if (!is_ours || (from && !read_chart(&chart, from))) {
    message_handler_string_dup(err, "the snapshot is in another format than `" FORMAT "`");
    return false;
  }
  handler_t *self = malloc(sizeof *self);
  char *id = text_of(partition->id.ptr, partition->id.len);
  self->partition = quoted(id);
  self->subject = malloc(strlen("alarms.") + strlen(id) + 1);
  strcat(strcpy(self->subject, "alarms."), id);
  free(id);
  self->field = setting("field", "value");
  self->width = number_setting("sigma", "3");
  self->weight = number_setting("lambda", "0.2");
  self->warmup = (uint64_t)number_setting("warmup", "30");
  self->chart = chart;
  *ret = exports_parti_plugin_handler_partition_handler_new(self);
  return true;
}

// Reports a reading outside the limits, which are those of the readings before it. Whether the host takes the report.
static bool judge(handler_t *self, uint64_t sequence, double value) {
  chart_t *chart = &self->chart;
  double sigma = chart->count > 1 ? sqrt(chart->m2 / (double)(chart->count - 1)) : 0;
  double lower = chart->mean - self->width * sigma, upper = chart->mean + self->width * sigma;
  if (chart->count < self->warmup || (lower <= value && value <= upper)) return true;
  size_t room = LONGEST + strlen(self->partition);
  char *text = malloc(room);
  snprintf(text, room,
           "{\"partition\":%s,\"sequence\":%llu,\"value\":%.17g,\"mean\":%.17g,\"sigma\":%.17g,\"ewma\":%.17g,"
           "\"lower\":%.17g,\"upper\":%.17g,\"count\":%llu}",
           self->partition, sequence, value, chart->mean, sigma, chart->ewma, lower, upper, chart->count);
  message_handler_string_t subject;
  parti_plugin_publish_refusal_t refusal;
  message_handler_string_set(&subject, self->subject);
  parti_plugin_publish_list_header_t headers = {0};
  message_handler_list_u8_t payload = {(uint8_t *)text, strlen(text)};
  bool is_taken = parti_plugin_publish_send(sequence, &subject, &headers, &payload, &refusal);
  if (!is_taken) parti_plugin_publish_refusal_free(&refusal);
  free(text);
  return is_taken;
}

// The chart with a reading. Whether it can hold that.
static bool add(const handler_t *self, uint64_t sequence, double value, chart_t *with) {
  chart_t before = self->chart;
  chart_t after = {.count = before.count + 1, .last_sequence = sequence};
  double delta = value - before.mean;
  after.mean = before.mean + delta / (double)after.count;
  after.m2 = before.m2 + delta * (value - after.mean);
  after.ewma = before.count == 0 ? value : before.ewma + self->weight * (value - before.ewma);
  *with = after;
  return isfinite(after.mean) && isfinite(after.m2) && isfinite(after.ewma);
}

void exports_parti_plugin_handler_method_partition_handler_handle(
    handler_t *self, exports_parti_plugin_handler_list_message_t *batch, exports_parti_plugin_handler_outcome_t *ret) {
  ret->retry.is_some = false;
  ret->done.len = 0;
  ret->done.ptr = calloc(batch->len, sizeof *ret->done.ptr);
  for (size_t at = 0; at < batch->len; at++) {
    exports_parti_plugin_handler_message_t *message = &batch->ptr[at];
    char *payload = text_of(message->payload.ptr, message->payload.len);
    const char *why = NULL;
    double reading;
    chart_t chart;
    if (!number_at(payload, self->field, &reading)) {
      why = "the payload has no such numeric field";
    } else if (!add(self, message->sequence, reading, &chart)) {
      why = "the reading is not finite, or too large for the chart";
    }
    free(payload);
    if (!why && !judge(self, message->sequence, reading)) {
      // It may be the batch's limit, and a message that is tried again begins the next batch.
      ret->retry.is_some = true;
      ret->retry.val.is_some = false;
      break;
    }
    if (!why) self->chart = chart;
    ret->done.len++;
    if (why) {
      ret->done.ptr[at].tag = PARTI_PLUGIN_TYPES_COMPLETED_REJECT;
      message_handler_string_dup(&ret->done.ptr[at].val.reject, why);
    }
  }
  exports_parti_plugin_handler_list_message_free(batch);
}

bool exports_parti_plugin_handler_method_partition_handler_snapshot(
    handler_t *self, exports_parti_plugin_handler_option_snapshot_t *ret, message_handler_string_t *err) {
  chart_t *chart = &self->chart;
  char text[LONGEST];
  snprintf(text, sizeof text, "{\"count\":%llu,\"mean\":%.17g,\"m2\":%.17g,\"ewma\":%.17g,\"last_sequence\":%llu}",
           chart->count, chart->mean, chart->m2, chart->ewma, chart->last_sequence);
  message_handler_string_t data;
  message_handler_string_dup(&data, text);
  ret->is_some = true;
  message_handler_string_dup(&ret->val.format, FORMAT);
  ret->val.data = (message_handler_list_u8_t){data.ptr, data.len};
  return true;
}

void exports_parti_plugin_handler_method_partition_handler_close(
    handler_t *self, exports_parti_plugin_handler_close_reason_t *why) {}

void exports_parti_plugin_handler_partition_handler_destructor(handler_t *self) {
  free(self->partition);
  free(self->subject);
  free(self->field);
  free(self);
}
