{{- define "grace.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "grace.labels" -}}
{{ include "grace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "grace.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "grace.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "" "-cpu" (gt (int .Values.gpus) 0))) }}
{{- end }}

{{- define "grace.keysSecret" -}}
{{- if .Values.apiKeys.existingSecret }}{{ .Values.apiKeys.existingSecret }}{{ else if .Values.apiKeys.keys }}{{ include "grace.name" . }}-keys{{ end }}
{{- end }}

{{/* The entry of that secret which is one key and nothing else, for Prometheus to send. */}}
{{- define "grace.scrapeEntry" -}}
{{- if .Values.apiKeys.existingSecret }}{{ .Values.monitoring.keyEntry }}{{ else }}scrape{{ end }}
{{- end }}

{{/* The port a URL leads to; called with a dict of the URL and the port where it names none. */}}
{{- define "grace.port" -}}
{{- $url := urlParse .url -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (.default | default (ternary "443" "80" (eq $url.scheme "https"))) -}}
{{- end }}

{{/* The GPUs that one copy of a layer is split over: what stages and copies of the model leave of a pod's. */}}
{{- define "grace.tensorParallelSize" -}}
{{- $parts := mul (.Values.settings.pipeline_parallel_size | default 1) (.Values.settings.data_parallel_size | default 1) -}}
{{- $size := .Values.settings.tensor_parallel_size | default (div .Values.gpus $parts) -}}
{{- if ne (mul $size $parts) (int64 .Values.gpus) }}
{{- fail (printf "gpus is %d: it has to be the product of settings.tensor_parallel_size, pipeline_parallel_size and data_parallel_size, and the latter two make %d" (int .Values.gpus) $parts) }}
{{- end }}
{{- $size }}
{{- end }}

{{/* The pod of either kind; called with a dict of the root context, the component and the volume that is its data folder. */}}
{{- define "grace.pod" -}}
{{- $ := .root -}}
metadata:
  labels:
    {{- include "grace.labels" $ | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    checksum/settings: {{ include (print $.Template.BasePath "/configmap.yaml") $ | sha256sum }}
    checksum/keys: {{ include (print $.Template.BasePath "/secret.yaml") $ | sha256sum }}
    {{- with $.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "grace.name" $ }}
  automountServiceAccountToken: false
  enableServiceLinks: false # they would set GRACE_PORT, which is a setting
  {{- with $.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  # preStop, the drain, and fifteen seconds for the engine's own end.
  terminationGracePeriodSeconds: {{ add 20 $.Values.drainSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: grace
      image: {{ include "grace.image" $ | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      ports:
        - {name: http, containerPort: 8000}
      env:
        - {name: GRACE_CONFIG, value: /etc/grace/grace.yaml}
        - {name: HF_HUB_OFFLINE, value: {{ ternary "1" "0" $.Values.models.offline | quote }}}
        {{- with $.Values.models.tokenSecret }}
        - name: HF_TOKEN
          valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
        {{- end }}
        {{- with include "grace.keysSecret" $ }}
        - name: GRACE_API_KEYS
          valueFrom: {secretKeyRef: {name: {{ . }}, key: keys}}
        {{- end }}
        {{- if $.Values.auditKey.existingSecret }}
        - {name: GRACE_AUDIT_KEY, value: /etc/grace-audit/key}
        {{- end }}
        {{- with $.Values.qdrantKey.existingSecret }}
        - name: GRACE_QDRANT_API_KEY
          valueFrom: {secretKeyRef: {name: {{ . }}, key: key}}
        {{- end }}
        {{- if $.Values.tracing.enabled }}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ $.Values.tracing.endpoint | quote }}}
        - {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ printf "k8s.namespace.name=%s,service.instance.id=$(POD_NAME)" $.Release.Namespace | quote }}}
        - {name: OTEL_SERVICE_NAME, value: {{ printf "%s-%s" (include "grace.name" $) .component | quote }}}
        {{- end }}
      startupProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        failureThreshold: {{ div (add $.Values.startupSeconds 4) 5 }}
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 5 # a busy pod answers late; one that is not ready says so at once, and is out at the first time
        failureThreshold: 1
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      lifecycle:
        preStop: # until every node knows that this pod is leaving
          exec: {command: [sleep, "5"]}
      resources:
        {{- $resources := deepCopy $.Values.resources }}
        {{- if gt (int $.Values.gpus) 0 }}
        {{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" $.Values.gpus) ($resources.limits | default dict)) }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      volumeMounts:
        - {name: settings, mountPath: /etc/grace, readOnly: true}
        {{- if $.Values.auditKey.existingSecret }}
        - {name: audit-key, mountPath: /etc/grace-audit, readOnly: true}
        {{- end }}
        - {name: data, mountPath: /data}
        - {name: models, mountPath: /models{{ if and $.Values.models.existingClaim $.Values.models.offline }}, readOnly: true{{ end }}}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - name: settings
      configMap: {name: {{ include "grace.name" $ }}}
    {{- with $.Values.auditKey.existingSecret }}
    - name: audit-key # for the pod's group alone
      secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: key, path: key}]}
    {{- end }}
    - name: models
      {{- if $.Values.models.existingClaim }}
      persistentVolumeClaim: {claimName: {{ $.Values.models.existingClaim }}}
      {{- else }}
      emptyDir: {}
      {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $.Values.sharedMemory }}}
    {{- if eq .component "embed" }}
    - name: data
      emptyDir: {sizeLimit: {{ $.Values.scratch }}}
    {{- end }}
  {{- with $.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
